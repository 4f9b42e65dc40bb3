//! `owner`, `group` and `mode`: names looked up, dangerous modes refused.

use super::{
    Ownership,
    document::{Section, Value},
};

impl Ownership {
    /// The agent's own user, the key for nobody else.
    pub(super) fn of_process() -> Self {
        Self {
            uid: uzers::get_effective_uid(),
            gid: uzers::get_effective_gid(),
            key_mode: 0o600,
            public_mode: 0o644,
        }
    }

    /// Reads `owner`, `group` and `mode` of a section; what is absent stays as in `base`.
    pub(super) fn read(base: Self, section: &mut Section<'_>) -> Self {
        let mut ownership = base;
        if let Some(value) = section.take("owner") {
            ownership.uid = user(&value).unwrap_or(base.uid);
        }
        if let Some(value) = section.take("group") {
            ownership.gid = group(&value).unwrap_or(base.gid);
            // Whoever names a group wants it to read the key.
            ownership.key_mode |= 0o040;
        }
        if let Some(mode) = section.take("mode").and_then(|value| value.with(mode)) {
            ownership.key_mode = mode;
            ownership.public_mode = mode;
        }
        ownership
    }
}

fn user(value: &Value<'_>) -> Option<u32> {
    value.with(|text| {
        text.parse()
            .ok()
            .or_else(|| uzers::get_user_by_name(text).map(|user| user.uid()))
            .ok_or_else(|| "there is no such user here: create it, or give a number".to_owned())
    })
}

fn group(value: &Value<'_>) -> Option<u32> {
    value.with(|text| {
        text.parse()
            .ok()
            .or_else(|| uzers::get_group_by_name(text).map(|group| group.gid()))
            .ok_or_else(|| "there is no such group here: create it, or give a number".to_owned())
    })
}

fn mode(text: &str) -> Result<u32, String> {
    let digits = matches!(text.len(), 3 | 4) && text.bytes().all(|c| (b'0'..=b'7').contains(&c));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits);
    let mode = mode.ok_or("write permission bits in octal, such as \"0640\"")?;
    if mode & 0o007 != 0 {
        return Err(
            "would let every user of this machine at the private key: use 0640 with a group, \
             or 0600"
                .to_owned(),
        );
    }
    if mode & 0o7111 != 0 {
        return Err(
            "has execute or special bits, which key files do not need: use 0640 or 0600".to_owned()
        );
    }
    if mode & 0o400 == 0 {
        return Err("would keep the owner from reading the files: use 0640 or 0600".to_owned());
    }
    Ok(mode)
}
