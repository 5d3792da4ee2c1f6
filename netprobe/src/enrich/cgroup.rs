//! cgroup path → pod UID and container id.
//!
//! The kubelet's two drivers and the runtimes name them so:
//!
//! ```text
//! /kubepods/burstable/podUID/ID                                        cgroupfs
//! /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/cri-containerd-ID.scope
//! .../crio-ID.scope   .../docker-ID.scope   /docker/ID                 other runtimes
//! /system.slice/containerd.service/kubepods-burstable-podU_I_D.slice:cri-containerd:ID
//! ```

/// What a cgroup path tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupNames {
    /// Pod UID, as Kubernetes writes it. Of a static pod it is the hash of its file, not the
    /// UID that the API shows.
    pub pod_uid: Option<String>,
    /// Container (or sandbox) id, 64 hex digits.
    pub container: Option<String>,
}

/// What `path` tells; nothing where it is of neither form.
#[must_use]
pub fn parse(path: &str) -> CgroupNames {
    let mut names = CgroupNames::default();
    for part in path.split(['/', ':']) {
        let part = part.strip_suffix(".slice").or_else(|| part.strip_suffix(".scope")).unwrap_or(part);
        // The innermost holds: a runtime may itself run in a pod.
        if let Some(uid) = pod_uid(part) {
            names = CgroupNames { pod_uid: Some(uid), container: None };
        } else if let Some(id) = container(part) {
            names.container = Some(id.to_owned());
        }
    }
    names
}

/// `kubepods-burstable-pod1f0c..` or `pod1f0c-..` → the UID.
fn pod_uid(part: &str) -> Option<String> {
    let text = match part.strip_prefix("pod") {
        Some(text) => text,
        None if part.contains("kubepods") => part.rsplit_once("-pod")?.1,
        None => return None,
    };
    // systemd reserves `-` in slices for nesting, so the kubelet writes `_`.
    let uid = text.replace('_', "-");
    (is_uid(&uid) || is_hash(&uid)).then_some(uid)
}

/// `cri-containerd-ID`, `crio-ID`, `docker-ID`, `libpod-ID` or the id alone.
fn container(part: &str) -> Option<&str> {
    let id = part.rsplit_once('-').map_or(part, |(_, id)| id);
    (id.len() == 64 && id.bytes().all(is_hex)).then_some(id)
}

/// Whether `text` is a UID as the API server makes it (RFC 9562, in lower case).
#[must_use]
pub fn is_uid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { b == b'-' } else { is_hex(b) })
}

/// The hash that stands for a UID in the cgroup of a static pod.
fn is_hash(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(is_hex)
}

const fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "0c7b3a5e-91f4-4f6a-8f83-2f60f5a1c9de";
    const ID: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn tells(path: &str, uid: Option<&str>, container: Option<&str>) {
        let want = CgroupNames { pod_uid: uid.map(Into::into), container: container.map(Into::into) };
        assert_eq!(parse(path), want, "{path}");
    }

    #[test]
    fn reads_the_forms_of_both_cgroup_drivers() {
        for class in ["", "/burstable", "/besteffort"] {
            tells(&format!("/kubepods{class}/pod{UID}/{ID}"), Some(UID), Some(ID));
        }
        let escaped = UID.replace('-', "_");
        for runtime in ["cri-containerd", "crio", "docker"] {
            for class in ["", "-burstable", "-besteffort"] {
                let slice = format!("kubepods{class}-pod{escaped}.slice");
                tells(&format!("/kubepods.slice/x.slice/{slice}/{runtime}-{ID}.scope"), Some(UID), Some(ID));
                tells(
                    &format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-{slice}/{runtime}-{ID}.scope"),
                    Some(UID),
                    Some(ID),
                );
            }
        }
        let slice = format!("kubepods-burstable-pod{escaped}.slice");
        tells(&format!("/system.slice/containerd.service/{slice}:cri-containerd:{ID}"), Some(UID), Some(ID));
        tells(&format!("/kubepods/burstable/pod{UID}"), Some(UID), None);
    }

    #[test]
    fn reads_containers_without_kubernetes() {
        tells(&format!("/docker/{ID}"), None, Some(ID));
        tells(&format!("/system.slice/docker-{ID}.scope"), None, Some(ID));
        tells(&format!("/machine.slice/libpod-{ID}.scope/container"), None, Some(ID));
    }

    #[test]
    fn a_static_pod_carries_a_hash() {
        let hash = "d0a5e1c0f5e14ed8a7a6d3c2b1a09f8e";
        tells(&format!("/kubepods/burstable/pod{hash}/{ID}"), Some(hash), Some(ID));
        assert!(!is_uid(hash));
        assert!(is_uid(UID));
    }

    #[test]
    fn the_innermost_pod_and_container_hold() {
        let inner = "11111111-2222-3333-4444-555555555555";
        tells(&format!("/kubepods/pod{UID}/{ID}/kubepods/pod{inner}"), Some(inner), None);
    }

    #[test]
    fn other_paths_tell_nothing() {
        for path in
            ["", "/", "/user.slice/user-0.slice/session-1.scope", "/system.slice/podman.service", "/kubepods/podx"]
        {
            tells(path, None, None);
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_the_parser_panic(path in "\\PC{0,120}") {
            let _ = parse(&path);
        }

        #[test]
        fn what_it_tells_is_in_the_path(path in "[/:a-f0-9._-]{0,40}(kubepods-)?pod[a-f0-9_-]{30,40}[/:.a-z0-9-]{0,90}") {
            let names = parse(&path);
            if let Some(uid) = names.pod_uid {
                prop_assert!(path.replace('_', "-").contains(&uid));
            }
            if let Some(id) = names.container {
                prop_assert!(path.contains(&id));
            }
        }
    }
}
