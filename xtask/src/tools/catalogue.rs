//! Which tools there are, and from which Debian packages they come.

use super::{File, Tool};

/// Every tool, in the order in which they are fetched.
pub(super) const TOOLS: &[Tool] = &[
    // The etcd client is generated from protobuf files by it, and so it comes first.
    Tool {
        // The files of google.protobuf, which protoc looks for beside itself.
        also: &["libprotobuf-dev"],
        ..Tool::new("protoc", "bookworm", "protobuf-compiler", &[File::program("usr/bin/protoc")])
            .probed_by("--version")
    },
    // ARI, profiles and IP identifiers came after the version in stable.
    Tool::new(
        "pebble",
        "sid",
        "pebble",
        &[File::program("usr/bin/pebble"), File::program("usr/bin/pebble-challtestsrv")],
    ),
    Tool::new("nginx", "bookworm", "nginx", &[File::program("usr/sbin/nginx")]).probed_by("-v"),
    Tool::new("haproxy", "bookworm", "haproxy", &[File::program("usr/sbin/haproxy")])
        .probed_by("-v"),
    // The oldest etcd that we support, and a newer one.
    etcd("etcd-3.4", "bookworm", "etcd-server", &[File::named("usr/bin/etcd", "etcd-3.4")]),
    etcd(
        "etcdctl-3.4",
        "bookworm",
        "etcd-client",
        &[File::named("usr/bin/etcdctl", "etcdctl-3.4")],
    ),
    etcd("etcd-3.5", "trixie", "etcd-server", &[File::named("usr/bin/etcd", "etcd-3.5")]),
    etcd("etcdctl-3.5", "trixie", "etcd-client", &[File::named("usr/bin/etcdctl", "etcdctl-3.5")]),
    // The last release that has it.
    Tool::new("consul", "bullseye", "consul", &[File::program("usr/bin/consul")])
        .probed_by("--version"),
    // Gives one program another clock.
    Tool::new(
        "libfaketime",
        "bookworm",
        "libfaketime",
        &[File::library("usr/lib/*/faketime/libfaketimeMT.so.1")],
    ),
    // Network namespaces. The system's own is good as well.
    Tool {
        system: true,
        ..Tool::new("iproute2", "bookworm", "iproute2", &[File::program("bin/ip")]).probed_by("-V")
    },
    Tool {
        peer: true,
        ..Tool::new("lego", "bookworm", "lego", &[File::program("usr/bin/lego")])
            .probed_by("--version")
    },
];

const fn etcd(
    name: &'static str,
    suite: &'static str,
    package: &'static str,
    files: &'static [File],
) -> Tool {
    Tool::new(name, suite, package, files).probed_by("--help")
}

/// Shared libraries that a minimal Debian may lack, and the packages that have them. They are
/// taken from the release that the tool is of.
pub(super) const LIBRARIES: &[(&str, &str)] = &[
    ("libbpf.so.1", "libbpf1"),
    ("libbsd.so.0", "libbsd0"),
    ("libcap.so.2", "libcap2"),
    ("libcrypt.so.1", "libcrypt1"),
    ("libcrypto.so.3", "libssl3"),
    ("libelf.so.1", "libelf1"),
    ("liblua5.3.so.0", "liblua5.3-0"),
    ("liblz4.so.1", "liblz4-1"),
    ("liblzma.so.5", "liblzma5"),
    ("libmd.so.0", "libmd0"),
    ("libmnl.so.0", "libmnl0"),
    ("libopentracing-c-wrapper.so.0", "libopentracing-c-wrapper0"),
    ("libopentracing.so.1", "libopentracing1"),
    ("libpcre2-8.so.0", "libpcre2-8-0"),
    ("libprotobuf.so.32", "libprotobuf32"),
    ("libprotoc.so.32", "libprotoc32"),
    ("libselinux.so.1", "libselinux1"),
    ("libssl.so.3", "libssl3"),
    ("libsystemd.so.0", "libsystemd0"),
    ("libtirpc.so.3", "libtirpc3"),
    ("libxtables.so.12", "libxtables12"),
    ("libz.so.1", "zlib1g"),
    ("libzstd.so.1", "libzstd1"),
];
