//! Proves that a snapshot boots: starts its disks as a machine, and watches that until it has come as far as it should.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tintype_formats::BlockSource;
use tintype_volumes::look::{Look, look_at};

use crate::boot::{
    Accelerator, BootDisk, Condition, Exports, Machine, Network, Overlay, Parent, Plan, Settings, Verdict, watch_until,
};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::disk::SnapshotDisk;
use crate::repository::ledger::Boot;
use crate::repository::snapshots::Snapshot;

/// How a snapshot is to prove itself.
#[derive(Debug, Clone)]
pub struct BootTest {
    /// What its machine is to be like.
    pub settings: Settings,
    /// What has to happen.
    pub condition: Condition,
    /// Within which time.
    pub limit: Duration,
    /// Whether to take a picture of the screen.
    pub picture: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct BootReport {
    /// Whether it booted, and what was seen.
    pub verdict: Verdict,
    /// How long it took.
    pub elapsed: Duration,
    /// How the machine was put together.
    pub machine: String,
    /// A picture of the screen in the end, as PNG.
    pub picture: Option<Vec<u8>>,
    /// What else is worth knowing.
    pub remarks: Vec<String>,
}

/// Starts the snapshot, watches it, and notes in the ledger what came of it. The calling thread has to stay until that is done.
pub fn verify_boot(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    test: &BootTest,
    progress: &Progress,
) -> Result<BootReport> {
    // Where nothing can be written, nothing is pruned from either.
    let lease = match repository.lease("boot", snapshot) {
        Err(cause) if cause.kind() == Kind::NoSnapshot => return Err(cause),
        lease => lease,
    };
    let mut report = boot(repository, snapshot, test, progress)?;
    drop(lease);
    let boot = Boot { ok: report.verdict.met, until: test.condition.kind(), seconds: report.elapsed.as_secs() };
    if let Err(cause) = repository.record_boot(snapshot.id, boot) {
        report.remarks.push(format!("that could not be noted in the ledger: {cause}"));
    }
    Ok(report)
}

fn boot(repository: &Arc<Repository>, snapshot: &Snapshot, test: &BootTest, progress: &Progress) -> Result<BootReport> {
    let sources = snapshot.manifest.disks.iter().map(|record| {
        let disk: Arc<dyn BlockSource> = Arc::new(SnapshotDisk::open(repository, record)?);
        Ok(disk)
    });
    let sources: Vec<_> = sources.collect::<Result<_>>()?;
    let (mut settings, mut port) = (test.settings.clone(), 0);
    if let Condition::Port(there) = test.condition {
        port = free_port()?;
        settings.network = Network::Forwarded(port, there);
    }
    let plan = plan_for(&sources, &settings)?;
    let attempt = |settings: &Settings| attempt(&sources, &plan, (settings, port), test, progress);
    let (report, accelerator, has_run) = attempt(&settings)?;
    if report.verdict.met || has_run {
        return Ok(report);
    }
    // That the processor does not work says nothing of the snapshot.
    let mut seen = report.verdict.seen;
    if accelerator == Accelerator::Kvm {
        settings.accelerator = Accelerator::Tcg;
        let (mut again, _, has_run) = attempt(&settings)?;
        if again.verdict.met || has_run {
            again
                .remarks
                .push(format!("under KVM the machine ran no instruction ({seen}); it was started again without"));
            return Ok(again);
        }
        seen = again.verdict.seen;
    }
    Err(Error::new(Kind::Io, format!("start the machine: its processor ran no instruction: {seen}")))
}

/// Starts the machine once; also says what ran its processor, and whether that ran an instruction.
fn attempt(
    sources: &[Arc<dyn BlockSource>],
    plan: &Plan,
    (settings, port): (&Settings, u16),
    test: &BootTest,
    progress: &Progress,
) -> Result<(BootReport, Accelerator, bool)> {
    let exports = Exports::start(sources)?;
    let disks: Vec<_> = temporary_overlays(sources, &exports)?;
    let began = Instant::now();
    let mut machine = Machine::start(plan, settings, &disks, &exports)?;
    let verdict =
        watch_until(&mut machine, (&test.condition, port), test.limit, exports.folder(), &|| progress.is_cancelled())?;
    let elapsed = began.elapsed();
    let has_run = verdict.met || machine.has_run();
    let mut remarks = plan.remarks.clone();
    remarks.append(&mut machine.remarks);
    let picture = test.picture.then(|| machine.take_picture(exports.folder())).and_then(|taken| {
        taken.map_err(|cause| remarks.push(format!("there is no picture of the screen: {cause}"))).ok()
    });
    let accelerator = machine.accelerator;
    machine.stop();
    remarks.extend(exports.take_complaints());
    let machine = format!("{}, {accelerator}", plan.summary());
    Ok((BootReport { verdict, elapsed, machine, picture, remarks }, accelerator, has_run))
}

/// The machine for these disks, as the first that can be booted wants it.
pub fn plan_for(sources: &[Arc<dyn BlockSource>], settings: &Settings) -> Result<Plan> {
    let looks: Vec<Look> = sources.iter().map(|disk| look_at(disk.as_ref())).collect();
    let first = looks.iter().position(Look::is_bootable).unwrap_or(0);
    match (looks.get(first), sources.get(first)) {
        (Some(look), Some(disk)) => Plan::new(settings, look, disk.geometry()),
        _ => Err(Error::new(Kind::Usage, "there is no disk to boot from")),
    }
}

fn temporary_overlays(sources: &[Arc<dyn BlockSource>], exports: &Exports) -> Result<Vec<BootDisk>> {
    let with_overlay = |(index, disk): (usize, &Arc<dyn BlockSource>)| {
        let parent = Parent::export(&Exports::name(index), &exports.socket());
        Ok(BootDisk { disk: Arc::clone(disk), overlay: Overlay::temporary(disk.geometry(), &parent)? })
    };
    sources.iter().enumerate().map(with_overlay).collect()
}

/// A port that nobody uses just now; QEMU says so if somebody was faster.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|cause| Error::io("find a free port", cause))
}
