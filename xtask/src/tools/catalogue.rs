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
    // Name servers that take updates: RFC 2136 with TSIG, and one with an HTTP API.
    Tool {
        also: &["bind9-libs", "bind9-dnsutils"],
        ..Tool::new(
            "bind",
            "bookworm",
            "bind9",
            &[File::program("usr/sbin/named"), File::program("usr/bin/nsupdate")],
        )
        .probed_by("-V")
    },
    Tool {
        also: &["libknot13", "libdnssec9", "libzscanner4"],
        ..Tool::new("knot", "bookworm", "knot", &[File::program("usr/sbin/knotd")])
            .probed_by("--version")
    },
    Tool {
        also: &["pdns-backend-lmdb"],
        ..Tool::new(
            "powerdns",
            "bookworm",
            "pdns-server",
            &[
                File::library("usr/lib/*/pdns/liblmdbbackend.so"),
                File::program("usr/sbin/pdns_server"),
                File::program("usr/bin/pdnsutil"),
            ],
        )
        .probed_by("--version")
    },
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
    ("libboost_program_options.so.1.74.0", "libboost-program-options1.74.0"),
    ("libbpf.so.1", "libbpf1"),
    ("libboost_serialization.so.1.74.0", "libboost-serialization1.74.0"),
    ("libbrotlicommon.so.1", "libbrotli1"),
    ("libbrotlidec.so.1", "libbrotli1"),
    ("libbsd.so.0", "libbsd0"),
    ("libcap-ng.so.0", "libcap-ng0"),
    ("libcap.so.2", "libcap2"),
    ("libcom_err.so.2", "libcom-err2"),
    ("libcrypt.so.1", "libcrypt1"),
    ("libcrypto.so.3", "libssl3"),
    ("libcurl.so.4", "libcurl4"),
    ("libelf.so.1", "libelf1"),
    ("libffi.so.8", "libffi8"),
    ("libfstrm.so.0", "libfstrm0"),
    ("libgcrypt.so.20", "libgcrypt20"),
    ("libgmp.so.10", "libgmp10"),
    ("libgnutls.so.30", "libgnutls30"),
    ("libgpg-error.so.0", "libgpg-error0"),
    ("libgssapi_krb5.so.2", "libgssapi-krb5-2"),
    ("libhogweed.so.6", "libhogweed6"),
    ("libicudata.so.72", "libicu72"),
    ("libicuuc.so.72", "libicu72"),
    ("libidn2.so.0", "libidn2-0"),
    ("libjemalloc.so.2", "libjemalloc2"),
    ("libjson-c.so.5", "libjson-c5"),
    ("libk5crypto.so.3", "libk5crypto3"),
    ("libkeyutils.so.1", "libkeyutils1"),
    ("libkrb5.so.3", "libkrb5-3"),
    ("libkrb5support.so.0", "libkrb5support0"),
    ("liblber-2.5.so.0", "libldap-2.5-0"),
    ("libldap-2.5.so.0", "libldap-2.5-0"),
    ("liblmdb.so.0", "liblmdb0"),
    ("liblua5.3.so.0", "liblua5.3-0"),
    ("libluajit-5.1.so.2", "libluajit-5.1-2"),
    ("liblz4.so.1", "liblz4-1"),
    ("liblzma.so.5", "liblzma5"),
    ("libmaxminddb.so.0", "libmaxminddb0"),
    ("libmd.so.0", "libmd0"),
    ("libmnl.so.0", "libmnl0"),
    ("libnettle.so.8", "libnettle8"),
    ("libnghttp2.so.14", "libnghttp2-14"),
    ("libopentracing-c-wrapper.so.0", "libopentracing-c-wrapper0"),
    ("libopentracing.so.1", "libopentracing1"),
    ("libp11-kit.so.0", "libp11-kit0"),
    ("libpcre2-8.so.0", "libpcre2-8-0"),
    ("libprotobuf-c.so.1", "libprotobuf-c1"),
    ("libprotobuf.so.32", "libprotobuf32"),
    ("libprotoc.so.32", "libprotoc32"),
    ("libpsl.so.5", "libpsl5"),
    ("librtmp.so.1", "librtmp1"),
    ("libsasl2.so.2", "libsasl2-2"),
    ("libselinux.so.1", "libselinux1"),
    ("libsodium.so.23", "libsodium23"),
    ("libssh2.so.1", "libssh2-1"),
    ("libssl.so.3", "libssl3"),
    ("libstdc++.so.6", "libstdc++6"),
    ("libsystemd.so.0", "libsystemd0"),
    ("libtasn1.so.6", "libtasn1-6"),
    ("libtirpc.so.3", "libtirpc3"),
    ("libunistring.so.2", "libunistring2"),
    ("liburcu.so.8", "liburcu8"),
    ("libuv.so.1", "libuv1"),
    ("libxdp.so.1", "libxdp1"),
    ("libxml2.so.2", "libxml2"),
    ("libxtables.so.12", "libxtables12"),
    ("libz.so.1", "zlib1g"),
    ("libzstd.so.1", "libzstd1"),
];
