//! Identities read from a proc and a cgroup tree made up for the test.

use std::fs;

use super::*;

struct Tree(tempfile::TempDir);

impl Tree {
    fn new(stat: &str, cgroup: &str, directories: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = folder.path().join("proc/42");
        fs::create_dir_all(&process).unwrap();
        fs::write(process.join("stat"), stat).unwrap();
        fs::write(process.join("cgroup"), cgroup).unwrap();
        for directory in directories {
            fs::create_dir_all(folder.path().join("cgroup").join(directory)).unwrap();
        }
        Self(folder)
    }

    fn roots(&self) -> Roots {
        Roots { proc: self.0.path().join("proc"), cgroup: self.0.path().join("cgroup") }
    }

    fn found(&self) -> Vec<(String, String)> {
        let top = self.roots().cgroup;
        let relative = |path: PathBuf| path.strip_prefix(&top).unwrap().display().to_string();
        let all = cgroup_of(&self.roots(), 42).unwrap().directories;
        all.into_iter().map(|(name, path)| (name, relative(path))).collect()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect()
}

const STAT: &str = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 200";

#[test]
fn the_start_time_is_found_whatever_the_command_is_called() {
    let tree = Tree::new(STAT, "", &[]);
    assert_eq!(start_ticks(&tree.roots(), 42).unwrap(), 987_654);
    let process = ProcessRef { pid: 42, start_ticks: 987_654 };
    check_process(&tree.roots(), &process).unwrap();
    let later = ProcessRef { start_ticks: 1, ..process.clone() };
    assert!(check_process(&tree.roots(), &later).unwrap_err().is_target_gone());
    let other = ProcessRef { pid: 43, ..process };
    assert!(check_process(&tree.roots(), &other).unwrap_err().is_target_gone());
}

#[test]
fn a_zombie_is_gone_and_junk_is_invalid() {
    let zombie = Tree::new(&STAT.replace(") S", ") Z"), "", &[]);
    assert!(start_ticks(&zombie.roots(), 42).unwrap_err().is_target_gone());
    for junk in ["", "42", "42 (x)", "42 (x) S 1 2 3", "42 (x) S a b c d e f g h i j k l m n o p q r s t"] {
        let tree = Tree::new(junk, "", &[]);
        assert!(matches!(start_ticks(&tree.roots(), 42), Err(Error::Invalid { .. })), "{junk:?}");
    }
}

#[test]
fn v1_controllers_are_found_alone_or_joint() {
    let lines =
        "9:name=systemd:/pods/x\n5:cpu,cpuacct:/pods/x\n4:freezer:/pods/x\n3:memory:/pods/gone\n0::/pods/x\n";
    let directories = ["systemd/pods/x", "cpu,cpuacct/pods/x", "freezer/pods/x", "memory", "unified/pods/x"];
    let expected = pairs(&[
        ("cpu", "cpu,cpuacct/pods/x"),
        ("cpuacct", "cpu,cpuacct/pods/x"),
        ("freezer", "freezer/pods/x"),
        ("systemd", "systemd/pods/x"),
        ("unified", "unified/pods/x"),
    ]);
    assert_eq!(Tree::new(STAT, lines, &directories).found(), expected);
}

#[test]
fn v2_has_one_directory_at_the_top_of_the_mount() {
    let tree = Tree::new(STAT, "0::/kubepods/x\n", &["kubepods/x"]);
    assert_eq!(tree.found(), pairs(&[("unified", "kubepods/x")]));
    let cgroup = cgroup_of(&tree.roots(), 42).unwrap();
    assert!(
        cgroup.thaw_command().starts_with("echo 0 > ") && cgroup.thaw_command().ends_with("/x/cgroup.freeze")
    );
}

#[test]
fn a_path_outside_the_cgroup_namespace_is_refused() {
    let tree = Tree::new(STAT, "0::/../../kubepods/x\n", &[]);
    assert!(matches!(cgroup_of(&tree.roots(), 42), Err(Error::Invalid { .. })));
}
