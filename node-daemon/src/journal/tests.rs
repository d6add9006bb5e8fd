//! The journal under crashes: at every byte of a write, and with files damaged at every byte.

use proto::experiment::LinkLossAction;
use proto::injection::{Action, EndReason, InjectionPhase, TargetRef};

use super::*;
use crate::recover::recover;
use crate::resolve::ContainerIdentity;
use crate::system::cgroup::FreezerState;
use crate::system::fake::FakeSystem;
use crate::system::{Error as SystemError, System, nft, target, tc};
use crate::worker::spec::{WorkerSpec, WorkerState};

const BOOT: &str = "boot-1";

fn record(id: &str, system: &FakeSystem, pid: i32) -> Record {
    let target = system.add_target(pid);
    let process = target.process.clone();
    let container =
        ContainerIdentity { id: "c1".into(), process: process.clone(), cgroup: target.cgroup.clone() };
    Record {
        injection: Injection {
            id: id.parse().unwrap(),
            run: "r1".parse().unwrap(),
            target: TargetRef {
                namespace: "shop".into(),
                pod: "p".into(),
                uid: "u".into(),
                node: "n1".into(),
                ips: vec![],
            },
            container: None,
            action: Action::ContainerPause,
            backend: "freezer".into(),
            link_loss_after_ms: 1000,
            link_loss: LinkLossAction::Revert,
            trace: proto::trace::TraceContext::NONE,
        },
        identity: Identity { sandbox: "s1".into(), netns: target.netns, container: Some(container) },
        steps: vec![Step::FreezeCgroup { init: process, cgroup: target.cgroup }],
        deadline: Deadline { boottime_ms: 61_000, wall_ms: 1_700_000_060_000 },
        boot_id: BOOT.into(),
        stage: Stage::Intended,
        injected_at_unix_ms: None,
    }
}

/// What a dead daemon left: the record, and the frozen group.
pub(crate) fn left_behind(folder: &Path, id: &str) -> FakeSystem {
    let system = FakeSystem::new();
    let record = record(id, &system, 7);
    let (journal, _) = Journal::open(folder).unwrap();
    journal.commit(&[Write::Record(Arc::new(record.clone()))]).unwrap();
    let Some(Step::FreezeCgroup { init, cgroup }) = record.steps.first() else { panic!() };
    system.freeze(init, cgroup).unwrap();
    system
}

#[test]
fn what_was_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let system = FakeSystem::new();
    let (one, two) = (record("r1.a.0", &system, 7), record("r1.a.1", &system, 8));
    let meta = Meta { highest_epoch: 9, halts: vec![] };
    {
        let (journal, loaded) = Journal::open(folder.path()).unwrap();
        assert!(loaded.records.is_empty() && loaded.meta == Some(Meta::default()));
        let writes = [&one, &two].map(|record| Write::Record(Arc::new(record.clone())));
        journal.commit(&writes).unwrap();
        journal.commit(&[Write::Meta(Arc::new(meta.clone()))]).unwrap();
        let again = Journal::open(folder.path());
        assert!(matches!(again, Err(Error::InUse(_))), "two daemons on one journal: {again:?}");
    }
    let (journal, loaded) = Journal::open(folder.path()).unwrap();
    assert_eq!(loaded.records, [one.clone(), two]);
    assert_eq!(loaded.meta, Some(meta));
    drop(journal.folders().lock_record(&one.injection.id));
    let recovered =
        recover(&journal, Loaded { records: vec![one.clone()], ..Loaded::default() }, &system, BOOT, 5);
    drop(journal);
    let (journal, loaded) = Journal::open(folder.path()).unwrap();
    assert_eq!(loaded.records.len(), 1, "an ended one is no record any more");
    assert_eq!(loaded.ended, recovered.ended);
    journal.commit(&[Write::Forget(one.injection.id)]).unwrap();
    drop(journal);
    assert!(Journal::open(folder.path()).unwrap().1.ended.is_empty());
}

/// A crash at any byte of writing a record anew leaves the old one whole.
#[test]
fn a_write_cut_off_at_any_byte_loses_no_undo() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), "r1.a.0");
    let path = folder.path().join("journal/r1.a.0.json");
    let whole = fs::read(&path).unwrap();
    let beside = path.with_added_extension("1.tmp");
    for length in 0..whole.len() {
        fs::write(&beside, &whole[..length]).unwrap();
        let (_journal, loaded) = Journal::open(folder.path()).unwrap();
        assert_eq!(loaded.records.len(), 1, "cut at {length}");
        assert!(loaded.damaged.is_empty());
    }
}

/// Daemon and keeper may write the end of the same injection at the same time.
#[test]
fn what_another_process_is_writing_is_not_touched_and_swept_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), "r1.a.0");
    let (journal, loaded) = Journal::open(folder.path()).unwrap();
    let others: Vec<_> = ["journal/r1.a.0", "ended/r1.a.0", "meta"]
        .iter()
        .flat_map(|path| ["tmp", "1.tmp"].map(|end| folder.path().join(format!("{path}.json.{end}"))))
        .collect();
    for other in &others {
        fs::write(other, "half of").unwrap();
    }
    let keepers = folder.path().join("keeper.tmp");
    fs::write(&keepers, "half of").unwrap();
    journal.commit(&[Write::Record(Arc::new(loaded.records[0].clone()))]).unwrap();
    journal.commit(&[Write::Meta(Arc::default())]).unwrap();
    recover(&journal, loaded, &FakeSystem::new(), BOOT, 5);
    for other in &others {
        assert_eq!(fs::read(other).unwrap(), b"half of", "{}", other.display());
    }
    drop(journal);
    assert_eq!(Journal::open(folder.path()).unwrap().1.ended.len(), 1);
    assert!(others.iter().all(|other| !other.exists()) && keepers.exists());
}

/// A record that was damaged in its place is never taken for a whole one, never ignored, never a panic.
#[test]
fn a_record_cut_off_or_changed_at_any_byte_is_put_aside_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), "r1.a.0");
    let path = folder.path().join("journal/r1.a.0.json");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        for damaged in [&whole[..at], &changed] {
            fs::write(&path, damaged).unwrap();
            let (journal, loaded) = Journal::open(folder.path()).unwrap();
            assert!(loaded.records.is_empty(), "taken for whole at {at}");
            assert_eq!(loaded.damaged.len(), 1, "ignored at {at}");
            let recovered = recover(&journal, loaded, &FakeSystem::new(), BOOT, 0);
            let status = recovered.unreadable.first().expect("reported");
            assert_eq!((status.id.as_str(), status.phase), ("r1.a.0", InjectionPhase::Residue));
            assert!(status.message.contains("quarantine/r1.a.0.json"), "{}", status.message);
            fs::remove_file(folder.path().join("quarantine/r1.a.0.json")).unwrap();
        }
    }
}

#[test]
fn a_damaged_record_is_reported_at_every_start_until_a_person_removed_it() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), "r1.a.0");
    fs::write(folder.path().join("journal/r1.a.0.json"), "x").unwrap();
    for _ in 0..2 {
        assert_eq!(Journal::open(folder.path()).unwrap().1.damaged.len(), 1);
    }
    fs::remove_file(folder.path().join("quarantine/r1.a.0.json")).unwrap();
    assert!(Journal::open(folder.path()).unwrap().1.damaged.is_empty());
}

#[test]
fn a_damaged_state_file_says_so_and_a_damaged_end_still_counts() {
    let folder = tempfile::tempdir().unwrap();
    drop(Journal::open(folder.path()).unwrap());
    fs::write(folder.path().join("meta.json"), "{}").unwrap();
    fs::write(folder.path().join("ended/r1.a.0.json"), "").unwrap();
    let (_journal, loaded) = Journal::open(folder.path()).unwrap();
    assert_eq!(loaded.meta, None);
    assert_eq!(loaded.ended.get(&"r1.a.0".parse().unwrap()), Some(&None));
}

#[test]
fn recovery_undoes_what_a_dead_daemon_left() {
    let folder = tempfile::tempdir().unwrap();
    let system = left_behind(folder.path(), "r1.a.0");
    assert_eq!(system.things(), 1);
    let (journal, loaded) = Journal::open(folder.path()).unwrap();
    let recovered = recover(&journal, loaded, &system, BOOT, 5);
    assert_eq!(system.things(), 0);
    let status = &recovered.ended.values().next().unwrap().as_ref().unwrap().status;
    assert_eq!((status.phase, status.reason), (InjectionPhase::Reverted, Some(EndReason::DaemonRestart)));
    drop(journal);
    assert!(Journal::open(folder.path()).unwrap().1.records.is_empty());
}

#[test]
fn a_record_of_another_boot_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let system = left_behind(folder.path(), "r1.a.0");
    let (journal, loaded) = Journal::open(folder.path()).unwrap();
    let recovered = recover(&journal, loaded, &system, "boot-2", 5);
    assert_eq!(system.things(), 1, "the same numbers name someone else's group now");
    let status = &recovered.ended.values().next().unwrap().as_ref().unwrap().status;
    assert_eq!(status.reason, Some(EndReason::Reboot));
}

#[test]
fn what_recovery_cannot_undo_stays_in_the_journal_and_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let system = left_behind(folder.path(), "r1.a.0");
    let (journal, loaded) = Journal::open(folder.path()).unwrap();
    let stubborn = Stubborn(system);
    let recovered = recover(&journal, loaded, &stubborn, BOOT, 5);
    let (_, status) = recovered.left.first().expect("listed");
    assert_eq!(status.phase, InjectionPhase::Residue);
    assert!(status.message.contains("THAWED"), "{}", status.message);
    drop(journal);
    assert_eq!(Journal::open(folder.path()).unwrap().1.records.len(), 1);
}

#[test]
fn what_the_keeper_knows_survives_damage_and_deletion_but_not_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let system = left_behind(folder.path(), "r1.a.0");
    let folders = Folders::new(folder.path());
    let (id, path) = ("r1.a.0".parse().unwrap(), folder.path().join("journal/r1.a.0.json"));
    let mut known = Known::default();
    folders.refresh(&mut known).unwrap();
    assert!(known.get(&id).is_some());
    fs::write(&path, "torn").unwrap();
    folders.refresh(&mut known).unwrap();
    assert!(known.get(&id).is_some(), "the undo is known still");
    fs::remove_file(&path).unwrap();
    folders.refresh(&mut known).unwrap();
    assert!(known.get(&id).is_some(), "who deletes a record deletes no fault");
    let (journal, _) = Journal::open(folder.path()).unwrap();
    let records = vec![known.get(&id).cloned().unwrap()];
    recover(&journal, Loaded { records, ..Loaded::default() }, &system, BOOT, 5);
    folders.refresh(&mut known).unwrap();
    assert!(known.is_empty());
}

/// Though the file looks as it did when it could not be read.
#[test]
fn a_record_that_could_not_be_read_is_read_again_and_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let system = left_behind(folder.path(), "r1.b.0");
    let (folders, mut known) = (Folders::new(folder.path()), Known::default());
    let (first, other) = ("r1.a.0".parse().unwrap(), "r1.b.0".parse().unwrap());
    let path = folder.path().join("journal/r1.a.0.json");
    let changed_at = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    // A folder cannot be read as a file.
    fs::create_dir(&path).unwrap();
    File::open(&path).unwrap().set_modified(changed_at).unwrap();
    assert!(folders.refresh(&mut known).is_err() && known.get(&first).is_none());
    assert!(known.get(&other).is_some());
    fs::remove_dir(&path).unwrap();
    folders.commit(&[Write::Record(Arc::new(record("r1.a.0", &system, 8)))]).unwrap();
    File::open(&path).unwrap().set_modified(changed_at).unwrap();
    folders.refresh(&mut known).unwrap();
    assert!(known.get(&first).is_some());
}

/// A node whose freezer cannot be thawed.
#[derive(Debug)]
pub(crate) struct Stubborn(pub(crate) FakeSystem);

impl System for Stubborn {
    fn boottime_ms(&self) -> u64 {
        self.0.boottime_ms()
    }
    fn identify(&self, pid: i32) -> Result<target::Target, SystemError> {
        self.0.identify(pid)
    }
    fn install_table(
        &self,
        netns: &target::NetnsRef,
        table: &nft::TableSpec,
        lifetime: Duration,
    ) -> Result<(), SystemError> {
        self.0.install_table(netns, table, lifetime)
    }
    fn read_table(
        &self,
        netns: &target::NetnsRef,
        name: &str,
    ) -> Result<Option<nft::TableState>, SystemError> {
        self.0.read_table(netns, name)
    }
    fn remove_table(&self, netns: &target::NetnsRef, name: &str) -> Result<(), SystemError> {
        self.0.remove_table(netns, name)
    }
    fn install_netem(&self, netns: &target::NetnsRef, netem: &tc::NetemSpec) -> Result<(), SystemError> {
        self.0.install_netem(netns, netem)
    }
    fn read_netem(
        &self,
        netns: &target::NetnsRef,
        device: &str,
    ) -> Result<Option<tc::NetemState>, SystemError> {
        self.0.read_netem(netns, device)
    }
    fn remove_netem(&self, netns: &target::NetnsRef, device: &str) -> Result<(), SystemError> {
        self.0.remove_netem(netns, device)
    }
    fn freeze(&self, init: &target::ProcessRef, cgroup: &target::CgroupRef) -> Result<(), SystemError> {
        self.0.freeze(init, cgroup)
    }
    fn read_freezer(&self, cgroup: &target::CgroupRef) -> Result<Option<FreezerState>, SystemError> {
        self.0.read_freezer(cgroup)
    }
    fn thaw(&self, _: &target::CgroupRef) -> Result<(), SystemError> {
        Ok(())
    }
    fn start_worker(
        &self,
        spec: &WorkerSpec,
        deadline_boottime_ms: u64,
    ) -> Result<target::ProcessRef, SystemError> {
        self.0.start_worker(spec, deadline_boottime_ms)
    }
    fn read_worker(&self, id: &str) -> Result<Option<WorkerState>, SystemError> {
        self.0.read_worker(id)
    }
    fn stop_worker(&self, id: &str) -> Result<(), SystemError> {
        self.0.stop_worker(id)
    }
}
