//! `_acme-challenge` may be a CNAME into a zone that takes the proofs.

use chancery_tests::dns::Bind;
use chancery_tests::scene;

use crate::stage::{Stage, rfc2136};

#[test]
fn proofs_are_delegated_to_another_zone() {
    scene::play(async |scene| {
        let more = "_acme-challenge CNAME all.proofs.example.\n\
                    _acme-challenge.www CNAME step.proofs.example.";
        // Eight CNAME records in a row are followed.
        let steps = "step CNAME s2\ns2 CNAME s3\ns3 CNAME s4\ns4 CNAME s5\ns5 CNAME s6\ns6 CNAME s7\n\
                     s7 CNAME end";
        let zones = [("chancery.example", more), ("proofs.example", steps)];
        let bind = Bind::start(&scene.folder("bind")?, &zones).await?;
        let key = bind.key().write(scene.path())?;
        // It is responsible for no more than the zone with the proofs.
        let provider = rfc2136("bind", bind.address(), &key, &["proofs.example"]);
        let stage = Stage::start(scene, bind.address(), &provider).await?;
        let names = ["chancery.example", "*.chancery.example", "www.chancery.example"];
        stage.declare("www", &names, "").await?;
        stage.wait_until_issued("www", 1).await?;
        for name in ["all.proofs.example", "end.proofs.example"] {
            // BIND's answer to a name that is only a target: nothing is left there.
            stage.wait_until_txt(name, &[]).await?;
        }
        Ok(())
    });
}
