//! Any bytes as a package, as the descriptor in one, or as a disk in one: the checksums of the archive would stop the rest.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};

const DESCRIPTOR: &str = r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"><References>
<File id="a" href="a"/><File id="b" href="b.gz" compression="gzip"/><File id="c" href="c" chunkSize="100"/></References>
<DiskSection><Disk diskId="a" fileRef="a"/><Disk diskId="b" fileRef="b" format="raw"/>
<Disk diskId="c" fileRef="c" format="vmdk"/></DiskSection></Envelope>"#;

/// A tar archive of these files.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[148..156].fill(b' ');
        header[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend(header);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let file = match mode % 3 {
        0 => rest.to_vec(),
        1 => {
            let (descriptor, manifest) = rest.split_at(rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len()));
            archive(&[("m.ovf", descriptor), ("m.mf", manifest), ("a", &[7; 600]), ("c.000000000", rest)])
        }
        _ => {
            let descriptor = DESCRIPTOR.as_bytes();
            let (first, second) = rest.split_at(rest.len().min(100));
            archive(&[
                ("m.ovf", descriptor),
                ("a", rest),
                ("b.gz", rest),
                ("c.000000000", first),
                ("c.000000001", second),
            ])
        }
    };
    let _ = exercise(&tintype_formats::ova::FORMAT, Arc::new(MemoryFile::from_bytes(&file)));
});
