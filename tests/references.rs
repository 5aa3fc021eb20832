//! Which files an image may make tintype open: only those that the user would expect.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::{Run, Sandbox, have};

const MIB: u64 = 1 << 20;

/// A qcow2 file that names `backing` as its parent, whatever that is.
fn overlay_naming(sandbox: &Sandbox, name: &str, backing: &str) {
    let path = sandbox.path(name);
    sandbox.tool(
        "qemu-img",
        ["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", backing, path.to_str().unwrap(), "1M"],
    );
}

/// An image of some kind at a path that names another file, whatever that is.
type Maker = (&'static str, fn(&Sandbox, &str, &str));

/// Every kind of reference that a format has and that can be written down here. Those of VHD and VHDX, in binary locators,
/// are tried beside their adapters.
const MAKERS: &[Maker] = &[
    ("top.qcow2", overlay_naming),
    ("top.qed", |sandbox, path, name| created_by_qemu(sandbox, "qed", path, name)),
    ("top.qcow", |sandbox, path, name| created_by_qemu(sandbox, "qcow", path, name)),
    ("data-file.qcow2", |sandbox, path, name| {
        // QEMU opens the file, so it gets a name of the same length, which is then replaced.
        let stand_in = "x".repeat(name.len());
        let (folder, image) = path.split_once('/').unwrap();
        let create = format!("cd {folder} && qemu-img create -q -f qcow2 -o data_file={stand_in} {image} 1M");
        sandbox.tool("sh", ["-c", &create]);
        let mut bytes = fs::read(sandbox.path(path)).unwrap();
        let at = bytes.windows(name.len()).position(|part| part == stand_in.as_bytes()).expect("the data file's name");
        bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        fs::write(sandbox.path(path), bytes).unwrap();
        fs::remove_file(sandbox.path(folder).join(&stand_in)).unwrap();
    }),
    ("extent.vmdk", |sandbox, path, name| {
        let text = vmdk("monolithicFlat", "ffffffff", "", &format!("RW 2048 FLAT \"{name}\" 0"));
        fs::write(sandbox.path(path), text).unwrap();
    }),
    ("sparse-extent.vmdk", |sandbox, path, name| {
        let text = vmdk("twoGbMaxExtentSparse", "ffffffff", "", &format!("RW 2048 SPARSE \"{name}\""));
        fs::write(sandbox.path(path), text).unwrap();
    }),
    ("parent.vmdk", |sandbox, path, name| {
        let text = vmdk("vmfs", "12345678", name, "RW 2048 ZERO");
        fs::write(sandbox.path(path), text).unwrap();
    }),
    ("DiskDescriptor.xml", |sandbox, path, name| {
        fs::write(sandbox.path(path), parallels_bundle(name)).unwrap();
    }),
    ("machine.ovf", |sandbox, path, name| fs::write(sandbox.path(path), appliance(name)).unwrap()),
];

/// Images whose disk is in other files, which a check therefore opens.
const CHECKED_WITH_THEIR_FILES: &[&str] = &["extent.vmdk", "sparse-extent.vmdk", "DiskDescriptor.xml"];

fn created_by_qemu(sandbox: &Sandbox, format: &str, path: &str, name: &str) {
    sandbox.tool("qemu-img", ["create", "-q", "-f", format, "-u", "-F", "raw", "-b", name, path, "1M"]);
}

fn vmdk(kind: &str, parent_cid: &str, parent: &str, extent: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID={parent_cid}\ncreateType=\"{kind}\"\n\
         parentFileNameHint=\"{parent}\"\n\n# Extent description\n{extent}\n\n\
         # The Disk Data Base\nddb.adapterType = \"ide\"\nddb.virtualHWVersion = \"4\"\n"
    )
}

fn in_xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn parallels_bundle(name: &str) -> String {
    let name = in_xml(name);
    let top = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
    let nobody = "{00000000-0000-0000-0000-000000000000}";
    format!(
        "<?xml version='1.0' encoding='UTF-8'?><Parallels_disk_image Version=\"1.0\"><Disk_Parameters>\
         <Disk_size>2048</Disk_size><Cylinders>2</Cylinders><Heads>16</Heads><Sectors>63</Sectors><Padding>0</Padding>\
         </Disk_Parameters><StorageData><Storage><Start>0</Start><End>2048</End><Blocksize>2048</Blocksize>\
         <Image><GUID>{top}</GUID><Type>Plain</Type><File>{name}</File></Image></Storage></StorageData>\
         <Snapshots><Shot><GUID>{top}</GUID><ParentGUID>{nobody}</ParentGUID></Shot></Snapshots></Parallels_disk_image>"
    )
}

fn appliance(name: &str) -> String {
    let name = in_xml(name);
    format!(
        "<?xml version=\"1.0\"?><Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\"><References>\
         <File ovf:id=\"file1\" ovf:href=\"{name}\"/></References><DiskSection><Info>disks</Info>\
         <Disk ovf:diskId=\"d1\" ovf:fileRef=\"file1\" ovf:capacity=\"1048576\" \
         ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"/></DiskSection>\
         <VirtualSystem ovf:id=\"vm\"><Info>machine</Info></VirtualSystem></Envelope>"
    )
}

#[test]
fn files_beside_the_image_and_below_open() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("base.raw", MIB, 4);
    fs::create_dir(sandbox.path("below")).unwrap();
    fs::copy(sandbox.path("base.raw"), sandbox.path("below/base.raw")).unwrap();
    symlink("base.raw", sandbox.path("inside.raw")).unwrap();
    for name in ["base.raw", "below/base.raw", "./base.raw", "inside.raw"] {
        overlay_naming(&sandbox, "top.qcow2", name);
        sandbox.run(["compare", "top.qcow2", "base.raw"]).ok();
    }
}

#[test]
fn everything_else_is_denied() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("images")).unwrap();
    fs::create_dir(sandbox.path("secret")).unwrap();
    sandbox.raw_disk("secret/base.raw", MIB, 4);
    symlink("../secret/base.raw", sandbox.path("images/link.raw")).unwrap();
    symlink("../secret", sandbox.path("images/folder")).unwrap();
    symlink("/dev/zero", sandbox.path("images/zero.raw")).unwrap();
    Command::new("mkfifo").arg(sandbox.path("images/fifo.raw")).status().unwrap();
    fs::create_dir(sandbox.path("images/plain")).unwrap();
    let absolute = sandbox.path("secret/base.raw");
    let names = [
        "../secret/base.raw",
        absolute.to_str().unwrap(),
        "link.raw",
        "folder/base.raw",
        "zero.raw",
        "fifo.raw",
        "plain",
        "/dev/zero",
        "/proc/self/mem",
        "/proc/self/fd/0",
        "nbd://localhost/x",
        "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}}",
        "missing.raw",
        "file:../secret/base.raw",
    ];
    for (file, make) in MAKERS {
        let image = format!("images/{file}");
        for name in names {
            // A quotation mark ends a name in a VMDK descriptor.
            if file.ends_with("vmdk") && name.contains('"') {
                continue;
            }
            make(&sandbox, &image, name);
            let run = sandbox.run(["digest", &image]);
            assert_eq!(run.code, Some(1), "{image} naming {name}: {run:?}");
            assert!(run.stderr.contains("open a file that the image names"), "{image} naming {name}: {}", run.stderr);
            assert!(run.stdout.is_empty(), "{image} naming {name}: {}", run.stdout);
            sandbox.run(["info", &image]).ok();
            sandbox.run(["check", "--no-references", &image]).ok();
            let check = sandbox.run(["check", &image]);
            match CHECKED_WITH_THEIR_FILES.contains(file) {
                true => _ = check.fails(1, "open a file that the image names"),
                false => _ = check.ok(),
            }
        }
        fs::remove_file(sandbox.path(&image)).unwrap();
    }
}

#[test]
fn the_user_widens_and_closes_the_gate() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("images")).unwrap();
    fs::create_dir(sandbox.path("bases")).unwrap();
    let base = sandbox.raw_disk("bases/base.raw", MIB, 4);
    for name in ["../bases/base.raw", base.to_str().unwrap()] {
        overlay_naming(&sandbox, "images/top.qcow2", name);
        sandbox.run(["compare", "images/top.qcow2", "bases/base.raw", "--allow-references", "bases"]).ok();
        sandbox.run(["digest", "images/top.qcow2", "--allow-references", "images"]).fails(1, "leads out");
    }
    overlay_naming(&sandbox, "bases/top.qcow2", "base.raw");
    sandbox.run(["digest", "bases/top.qcow2", "--no-references"]).fails(1, "references are not allowed");
}

/// What was typed counts more than a variable, and a hint helps only where it can be followed.
#[test]
fn an_option_wins_over_a_variable_and_hints_fit() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("bases")).unwrap();
    let base = sandbox.raw_disk("bases/base.raw", MIB, 4);
    overlay_naming(&sandbox, "top.qcow2", base.to_str().unwrap());
    let digest = |args: &[&str]| {
        let mut command = sandbox.command(["digest", "top.qcow2"].iter().chain(args));
        Run::of(&command.env("TINTYPE_ALLOW_REFERENCES", sandbox.path("bases")).output().unwrap())
    };
    digest(&[]).ok();
    digest(&["--no-references"]).fails(1, "references are not allowed");
    digest(&["--no-references", "--allow-references", "bases"]).fails(2, "cannot be used with");
    sandbox.run(["digest", "top.qcow2"]).fails(1, "use --allow-references DIR");
    for missing in ["base.raw", "../bases/gone.raw", "/no/such/folder/base.raw", "C:\\vms\\base.raw"] {
        overlay_naming(&sandbox, "top.qcow2", missing);
        let run = sandbox.run(["digest", "top.qcow2"]).fails(1, "cannot be opened: No such file");
        assert!(run.stderr.contains("put the file where the image expects it"), "{missing}: {}", run.stderr);
        assert!(!run.stderr.contains("--allow-references"), "{missing}: {}", run.stderr);
    }
}

#[test]
fn info_opens_nothing_and_escapes_what_it_prints() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    overlay_naming(&sandbox, "top.qcow2", "evil\u{1b}[2Jname\u{202e}.raw");
    let run = sandbox.run(["info", "top.qcow2"]).ok();
    assert!(!run.stdout.contains('\u{1b}') && !run.stdout.contains('\u{202e}'), "{:?}", run.stdout);
    assert!(run.stdout.contains("\\u{1b}[2Jname"), "{}", run.stdout);
    let run = sandbox.run(["digest", "top.qcow2"]).fails(1, "");
    assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
}

#[test]
fn chains_that_loop_end_and_deep_ones_work() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    overlay_naming(&sandbox, "a.qcow2", "b.qcow2");
    sandbox.tool("qemu-img", ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "b.qcow2", "a.qcow2"]);
    sandbox.tool("qemu-img", ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "a.qcow2", "b.qcow2", "1M"]);
    sandbox.run(["digest", "a.qcow2"]).fails(1, "comes back to a file");
    let base = sandbox.raw_disk("base.raw", MIB, 4);
    let mut below = "base.raw".to_owned();
    for depth in 0..20 {
        let name = format!("layer{depth}.qcow2");
        let format = if depth == 0 { "raw" } else { "qcow2" };
        sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "-F", format, "-b", &below, &name]);
        below = name;
    }
    sandbox.run(["compare", &below, base.to_str().unwrap()]).ok();
}

#[test]
fn an_image_that_a_machine_writes_to_is_refused() {
    if !have("qemu-io") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "busy.qcow2", "1M"]);
    let mut holder = Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", "sleep 20000"])
        .arg(sandbox.path("busy.qcow2"))
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    let refused = sandbox.run(["digest", "busy.qcow2"]);
    let shared = sandbox.run(["digest", "busy.qcow2", "--force-share"]);
    let info = sandbox.run(["info", "busy.qcow2"]);
    sandbox.raw_disk("other.raw", MIB, 2);
    let replaced = sandbox.run(["convert", "other.raw", "busy.qcow2", "--force"]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    refused.fails(1, "running machine");
    replaced.fails(1, "the target open for writing");
    shared.ok();
    info.ok();
    sandbox.run(["digest", "busy.qcow2"]).ok();
    assert!(Path::new("/proc/locks").exists());
}

/// VDI files know their parents by two UUIDs, and by no name.
#[test]
fn a_parent_without_a_name_is_looked_for_by_its_identity() {
    let sandbox = Sandbox::new();
    for folder in ["base", "base/Snapshots", "other"] {
        fs::create_dir(sandbox.path(folder)).unwrap();
    }
    sandbox.raw_disk("base.raw", MIB, 4);
    sandbox.run(["convert", "base.raw", "base/base.VDI", "-O", "vdi"]).ok();
    let base = fs::read(sandbox.path("base/base.VDI")).unwrap();
    // A child that has no block of its own: type 4, the parent's UUIDs, a UUID of its own.
    let mut child = base[..2 << 20].to_vec();
    child[76] = 4;
    child.copy_within(392..424, 424);
    child[392] ^= 1;
    child[388..392].fill(0);
    child[1 << 20..(1 << 20) + 4].fill(0xff);
    fs::write(sandbox.path("base/child.vdi"), &child).unwrap();
    fs::write(sandbox.path("base/unrelated.vdi"), b"no VDI file").unwrap();
    symlink("/dev/zero", sandbox.path("base/zero.vdi")).unwrap();
    Command::new("mkfifo").arg(sandbox.path("base/fifo.vdi")).status().unwrap();
    symlink("base.VDI", sandbox.path("base/link.vdi")).unwrap();
    sandbox.run(["compare", "base/child.vdi", "base.raw"]).ok();
    sandbox.run(["digest", "base/child.vdi", "--no-references"]).fails(1, "references are not allowed");
    assert!(sandbox.run(["info", "base/child.vdi"]).ok().stdout.contains("by identity (vdi)"));

    // Only what the user allows is looked into, and links do not lead out of it.
    fs::rename(sandbox.path("base/child.vdi"), sandbox.path("base/Snapshots/child.vdi")).unwrap();
    symlink("../base.VDI", sandbox.path("base/Snapshots/base.vdi")).unwrap();
    sandbox.run(["digest", "base/Snapshots/child.vdi"]).fails(1, "is not in the image's folder");
    sandbox.run(["compare", "base/Snapshots/child.vdi", "base.raw", "--allow-references", "base"]).ok();

    // Of two files with the same identity, one may have been changed.
    fs::copy(sandbox.path("base/base.VDI"), sandbox.path("base/copy.vdi")).unwrap();
    let allowed = ["digest", "base/Snapshots/child.vdi", "--allow-references", "base"];
    sandbox.run(allowed).fails(1, "only one of them may be in the folder");
    // The parent was written to: another modification UUID.
    fs::remove_file(sandbox.path("base/copy.vdi")).unwrap();
    let mut changed = base.clone();
    changed[408] ^= 1;
    fs::write(sandbox.path("base/base.VDI"), &changed).unwrap();
    sandbox.run(allowed).fails(1, "is not in the image's folder");
    // A child that is its own parent.
    child[392] ^= 1;
    fs::write(sandbox.path("other/self.vdi"), &child).unwrap();
    sandbox.run(["digest", "other/self.vdi"]).fails(1, "the chain comes back");
}
