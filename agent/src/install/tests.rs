use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt as _, symlink},
};

use super::*;
use crate::{
    bundle::{Bundle, tests::bundle},
    config::Ownership,
};

fn ownership(key_mode: u32) -> Ownership {
    Ownership {
        uid: uzers::get_effective_uid(),
        gid: uzers::get_effective_gid(),
        key_mode,
        public_mode: 0o644,
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    layout: Layout,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("certs"));
        Self { dir, layout }
    }

    fn stage(&self, bundle: &Bundle, build: &str, key_mode: u32) -> Result<(), Error> {
        let build = build.parse().unwrap();
        self.layout.stage(&Staging { bundle, build, ownership: ownership(key_mode) })
    }

    fn read(&self, certificate: &str, file: &str) -> String {
        let path = self.layout.stable_path(&certificate.parse().unwrap()).join(file);
        fs::read_to_string(path).unwrap()
    }

    /// Path, inode and modification time of everything, to see whether anything was touched.
    fn everything(&self) -> BTreeSet<(PathBuf, u64, i64, i64)> {
        let mut all = BTreeSet::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for path in list(&folder).unwrap() {
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_dir() {
                    folders.push(path.clone());
                }
                all.insert((path, metadata.ino(), metadata.mtime(), metadata.mtime_nsec()));
            }
        }
        all
    }
}

#[test]
fn key_and_chain_change_together_by_one_link() {
    let fixture = Fixture::new();
    let (first, second) = (bundle("web", 1), bundle("web", 2));
    let web = first.certificate();
    fixture.stage(&first, "1", 0o600).unwrap();
    assert_eq!(fixture.layout.observe(web).unwrap().linked, None, "staging switches nothing");
    fixture.layout.switch(web, "1".parse().unwrap()).unwrap();
    assert_eq!(fixture.read("web", "privkey.pem"), *first.files().privkey);

    fixture.stage(&second, "2", 0o600).unwrap();
    fixture.layout.switch(web, "2".parse().unwrap()).unwrap();
    for (file, contents) in [
        ("fullchain.pem", second.files().fullchain),
        ("cert.pem", second.files().cert),
        ("chain.pem", second.files().chain),
        ("privkey.pem", (*second.files().privkey).clone()),
    ] {
        assert_eq!(fixture.read("web", file), contents, "{file}");
    }
    let observed = fixture.layout.observe(web).unwrap();
    assert_eq!(observed.linked, Some("2".parse().unwrap()));
    assert_eq!(observed.builds.len(), 2);
    assert!(observed.builds.values().all(|build| build.intact));
    let fingerprint = expected(&second.brief(), ownership(0o600));
    assert_eq!(observed.builds[&"2".parse().unwrap()].fingerprint, fingerprint);

    fixture.layout.unlink(web).unwrap();
    fixture.layout.unlink(web).unwrap();
    assert_eq!(fixture.layout.observe(web).unwrap().linked, None);
}

#[test]
fn observing_touches_nothing() {
    let fixture = Fixture::new();
    let web = bundle("web", 1);
    fixture.stage(&web, "1", 0o640).unwrap();
    fixture.layout.switch(web.certificate(), "1".parse().unwrap()).unwrap();
    let before = fixture.everything();
    fixture.layout.observe(web.certificate()).unwrap();
    fixture.layout.clean_up().unwrap();
    assert_eq!(fixture.everything(), before);
}

#[test]
fn modes_are_as_asked_for_and_count_towards_the_fingerprint() {
    let fixture = Fixture::new();
    let web = bundle("web", 1);
    fixture.stage(&web, "1", 0o600).unwrap();
    fixture.stage(&web, "1.1", 0o640).unwrap();
    let mode = |build: &str, file: &str| {
        let dir = fixture.layout.build_dir(web.certificate(), build.parse().unwrap());
        fs::metadata(dir.join(file)).unwrap().mode() & 0o7777
    };
    assert_eq!((mode("1", "privkey.pem"), mode("1.1", "privkey.pem")), (0o600, 0o640));
    assert_eq!((mode("1", "chain.pem"), mode("1", "")), (0o644, 0o755));
    let builds = fixture.layout.observe(web.certificate()).unwrap().builds;
    assert_ne!(
        builds[&"1".parse().unwrap()].fingerprint,
        builds[&"1.1".parse().unwrap()].fingerprint
    );
}

#[test]
fn owner_and_group_are_set_when_the_agent_may_do_so() {
    if uzers::get_effective_uid() != 0 {
        // Only root may give files away: then the refusal is what is checked.
        let fixture = Fixture::new();
        let foreign = Ownership { uid: 0, ..ownership(0o600) };
        let (bundle, build) = (bundle("web", 1), "1".parse().unwrap());
        let staging = Staging { bundle: &bundle, build, ownership: foreign };
        let error = fixture.layout.stage(&staging).unwrap_err().to_string();
        assert!(error.contains("owner"), "{error}");
        return;
    }
    let fixture = Fixture::new();
    let given = Ownership { uid: 12, gid: 34, ..ownership(0o640) };
    let (bundle, build) = (bundle("web", 1), "1".parse().unwrap());
    fixture.layout.stage(&Staging { bundle: &bundle, build, ownership: given }).unwrap();
    let dir = fixture.layout.build_dir(bundle.certificate(), build);
    let metadata = fs::metadata(dir.join("privkey.pem")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
    assert!(fixture.layout.observe(bundle.certificate()).unwrap().builds[&build].intact);
}

#[test]
fn changed_files_are_noticed() {
    let fixture = Fixture::new();
    let web = bundle("web", 1);
    let build = "1".parse().unwrap();
    let dir = fixture.layout.build_dir(web.certificate(), build);
    let spoil: [fn(&Path); 3] = [
        |dir| fs::write(dir.join("chain.pem"), "other").unwrap(),
        |dir| fs::remove_file(dir.join("cert.pem")).unwrap(),
        |dir| {
            let mode = fs::Permissions::from_mode(0o666);
            fs::set_permissions(dir.join("privkey.pem"), mode).unwrap();
        },
    ];
    for spoil in spoil {
        remove(&dir).unwrap();
        fixture.stage(&web, "1", 0o600).unwrap();
        spoil(&dir);
        let observed = fixture.layout.observe(web.certificate()).unwrap();
        assert!(!observed.builds[&build].intact);
    }
}

#[test]
fn a_build_that_cannot_be_read_stays_where_the_stable_path_points_to() {
    let fixture = Fixture::new();
    let web = bundle("web", 1);
    fixture.stage(&web, "1", 0o600).unwrap();
    let build = "1".parse().unwrap();
    fixture.layout.switch(web.certificate(), build).unwrap();
    let dir = fixture.layout.build_dir(web.certificate(), build);
    fs::write(dir.join(manifest::FILE), "{}").unwrap();
    let observed = fixture.layout.observe(web.certificate()).unwrap();
    assert_eq!((observed.linked, observed.builds[&build].intact), (Some(build), false));
    // Its name is taken.
    fixture.stage(&web, "1", 0o600).unwrap_err();
    let stable = fixture.layout.stable_path(web.certificate());
    assert!(fs::read_to_string(stable.join("privkey.pem")).unwrap().contains("PRIVATE KEY"));
}

#[test]
fn what_the_agent_did_not_make_is_never_replaced() {
    let fixture = Fixture::new();
    let web = bundle("web", 1);
    fixture.stage(&web, "1", 0o600).unwrap();
    let path = fixture.layout.stable_path(web.certificate());
    let build = "1".parse().unwrap();
    let occupy: [fn(&Path); 3] = [
        |path| fs::write(path, "mine").unwrap(),
        |path| fs::create_dir(path).unwrap(),
        |path| symlink("/elsewhere", path).unwrap(),
    ];
    for occupy in occupy {
        occupy(&path);
        for refused in [
            fixture.layout.switch(web.certificate(), build),
            fixture.layout.unlink(web.certificate()),
            fixture.layout.observe(web.certificate()).map(drop),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Foreign { .. }), "{error}");
            assert!(error.to_string().contains("move it away"), "{error}");
        }
        remove(&path).unwrap();
    }
}

#[test]
fn what_a_killed_process_left_is_cleaned_up() {
    let fixture = Fixture::new();
    let web = bundle("web", 1);
    fixture.stage(&web, "1", 0o600).unwrap();
    fixture.layout.switch(web.certificate(), "1".parse().unwrap()).unwrap();
    let before = fixture.everything();
    let builds = fixture.layout.builds_dir(web.certificate());
    fs::create_dir(builds.join(".tmp-2")).unwrap();
    fs::write(builds.join(".tmp-2/privkey.pem"), "half").unwrap();
    symlink("x", builds.join(".tmp-link")).unwrap();
    fixture.layout.clean_up().unwrap();
    let names = |all: BTreeSet<(PathBuf, u64, i64, i64)>| {
        all.into_iter().map(|entry| entry.0).collect::<Vec<_>>()
    };
    assert_eq!(names(fixture.everything()), names(before));
}

#[test]
fn a_build_that_cannot_be_written_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let web = bundle("web", 1);
    fixture.stage(&web, "1", 0o600).unwrap();
    fixture.layout.switch(web.certificate(), "1".parse().unwrap()).unwrap();
    // A file stands where the folder of another certificate would go.
    fs::write(fixture.layout.builds_dir(&"mail".parse().unwrap()), "").unwrap();
    let before = fixture.everything();
    let error = fixture.stage(&bundle("mail", 1), "1", 0o600).unwrap_err();
    assert!(error.to_string().contains("mail"), "{error}");
    assert_eq!(fixture.everything(), before);
}

#[test]
fn former_builds_can_be_removed() {
    let fixture = Fixture::new();
    let web = bundle("web", 1);
    fixture.stage(&web, "1", 0o600).unwrap();
    fixture.stage(&web, "1.1", 0o600).unwrap();
    fixture.layout.remove_build(web.certificate(), "1".parse().unwrap()).unwrap();
    let observed = fixture.layout.observe(web.certificate()).unwrap();
    assert_eq!(format!("{:?}", observed.builds.keys()), "[1.1]");
}

#[test]
fn errors_say_what_to_do() {
    for (kind, expected) in [
        (io::ErrorKind::StorageFull, "free some space"),
        (io::ErrorKind::ReadOnlyFilesystem, "ReadWritePaths"),
        (io::ErrorKind::PermissionDenied, "root"),
    ] {
        let error = because("write", Path::new("/x/privkey.pem"))(kind.into()).to_string();
        assert!(error.contains("/x/privkey.pem") && error.contains(expected), "{error}");
    }
}
