//! `_acme-challenge` may be a CNAME into a zone that takes the proofs.

use chancery_tests::dns::Bind;
use chancery_tests::scene;

use crate::stage::{Stage, rfc2136};

#[test]
fn proofs_are_delegated_to_another_zone() {
    scene::play(async |scene| {
        let more = "_acme-challenge CNAME all.proofs.example.\n\
                    _acme-challenge.www CNAME step.proofs.example.";
        let zones =
            [("chancery.example", more), ("proofs.example", "step CNAME www.proofs.example.")];
        let bind = Bind::start(&scene.folder("bind")?, &zones).await?;
        let key = bind.key().write(scene.path())?;
        // It is responsible for no more than the zone with the proofs.
        let provider = rfc2136("bind", bind.address(), &key, &["proofs.example"]);
        let stage = Stage::start(scene, bind.address(), &provider).await?;
        let names = ["chancery.example", "*.chancery.example", "www.chancery.example"];
        stage.declare("www", &names, "").await?;
        stage.wait_until_issued("www", 1).await?;
        for name in ["all.proofs.example", "www.proofs.example"] {
            // BIND's answer to a name that is only a target: nothing is left there.
            stage.wait_until_txt(name, &[]).await?;
        }
        Ok(())
    });
}
