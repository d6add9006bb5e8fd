//! What differs between runtimes is their verbose JSON; a real containerd is asked in `tests/system_cri.rs`.

use super::*;

fn status(info: &str) -> PodSandboxStatusResponse {
    PodSandboxStatusResponse {
        info: [("info".to_owned(), info.to_owned())].into(),
        ..PodSandboxStatusResponse::default()
    }
}

#[test]
fn containerd_says_process_namespace_and_type() {
    let info = SandboxInfo::parse(&status(
        r#"{"pid": 4242, "processStatus": "running", "runtimeType": "io.containerd.runc.v2",
            "runtimeSpec": {"linux": {"namespaces": [{"type": "pid"},
                {"type": "network", "path": "/var/run/netns/cni-1"}]}}}"#,
    ));
    let expected = SandboxInfo {
        pid: Some(4242),
        netns_path: Some("/var/run/netns/cni-1".into()),
        runtime_type: Some("io.containerd.runc.v2".to_owned()),
    };
    assert_eq!(info, expected);
}

#[test]
fn junk_is_nothing_known() {
    for junk in [
        "",
        "{",
        "null",
        "[]",
        "7",
        r#"{"pid": "x"}"#,
        r#"{"pid": 0}"#,
        r#"{"pid": -3}"#,
        r#"{"pid": 99999999999}"#,
        r#"{"runtimeSpec": {"linux": {"namespaces": [{"type": "network"}, 3]}}}"#,
    ] {
        assert_eq!(SandboxInfo::parse(&status(junk)), SandboxInfo::default(), "{junk}");
    }
    assert_eq!(SandboxInfo::parse(&PodSandboxStatusResponse::default()), SandboxInfo::default());
}

#[test]
fn handlers_of_other_kernels_are_known() {
    for handler in ["runsc", "io.containerd.runsc.v1", "kata-qemu", "io.containerd.kata.v2", "gVisor"] {
        assert!(is_other_kernel(handler), "{handler}");
    }
    for handler in ["", "runc", "crun", "io.containerd.runc.v2", "nvidia"] {
        assert!(!is_other_kernel(handler), "{handler}");
    }
}

#[test]
fn a_configured_socket_wins_and_the_first_existing_one_is_found() {
    let root = tempfile::tempdir().unwrap();
    assert!(matches!(find_socket(None, root.path()), Err(Error::NoSocket)));
    let crio = root.path().join("run/crio/crio.sock");
    std::fs::create_dir_all(crio.parent().unwrap()).unwrap();
    std::fs::write(&crio, "").unwrap();
    assert_eq!(find_socket(None, root.path()).unwrap(), crio);
    assert_eq!(find_socket(Some(Path::new("/x.sock")), root.path()).unwrap(), Path::new("/x.sock"));
}
