//! Compiles the protobuf files with `protox`, so that no system `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    // The files import each other as `chancery/v1/…`, which is their package; on
    // disk they stand in `v1/`. A copy in the build folder bridges the two.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let include = out.join("include");
    let package = include.join("chancery/v1");
    fs::create_dir_all(&package)?;
    let mut files = Vec::new();
    for name in ["agent.proto", "admin.proto", "peer.proto"] {
        let source = PathBuf::from("v1").join(name);
        println!("cargo::rerun-if-changed={}", source.display());
        fs::copy(&source, package.join(name))?;
        files.push(format!("chancery/v1/{name}"));
    }
    let descriptors = protox::compile(files, [&include])?;
    // Served by gRPC reflection.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Certificates and chains are shared by many streams: cheap clones.
        .bytes(".chancery.v1.Bundle.leaf_der")
        .bytes(".chancery.v1.Bundle.chain_der")
        .btree_map(".chancery.v1")
        .skip_debug([
            "chancery.v1.Bundle",
            "chancery.v1.JoinRequest",
            "chancery.v1.CreateTokenResponse",
            "chancery.v1.ExternalAccount",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
