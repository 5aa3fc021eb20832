//! A package, the descriptor in one, or a disk in one.
//!
//! - An archive gets the checksums of its headers made right.
//! - What begins with `<` is a descriptor and, after a zero byte, a manifest; they get some files to name.
//! - Anything else is a disk, which a good descriptor names in all ways that there are.

use super::{gce, tar};

/// Of a file that is cut into chunks, in bytes.
const CHUNK_BYTES: usize = 512;
const MAX_CHUNKS: usize = 16;

const DESCRIPTOR: &str = r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"><References>
<File id="a" href="a"/><File id="b" href="b.gz" compression="gzip"/><File id="c" href="c" chunkSize="512"/></References>
<DiskSection><Disk diskId="a" fileRef="a"/><Disk diskId="b" fileRef="b" format="raw"/>
<Disk diskId="c" fileRef="c" format="vmdk"/></DiskSection></Envelope>"#;

/// The file that an input stands for.
pub fn image(input: &[u8]) -> Vec<u8> {
    if tar::is_archive(input) {
        let mut archive = input.to_vec();
        tar::mend(&mut archive);
        return archive;
    }
    if input.starts_with(b"<") { described(input) } else { disk(input) }
}

fn described(input: &[u8]) -> Vec<u8> {
    let (descriptor, manifest) = input.split_at(input.iter().position(|byte| *byte == 0).unwrap_or(input.len()));
    let manifest = manifest.strip_prefix(&[0]).unwrap_or(manifest);
    let (raw, packed) = ([7; 600], gce::gzip(&[8; 1024]));
    tar::archive(&[
        ("m.ovf", descriptor),
        ("m.mf", manifest),
        ("a", &raw),
        ("b.gz", &packed),
        ("c.000000000", &raw[..512]),
        ("c.000000001", &raw[..100]),
    ])
}

fn disk(input: &[u8]) -> Vec<u8> {
    let mut members = vec![("m.ovf", DESCRIPTOR.as_bytes()), ("a", input), ("b.gz", input)];
    let names: Vec<_> = (0..MAX_CHUNKS).map(|number| format!("c.{number:09}")).collect();
    members.extend(names.iter().map(String::as_str).zip(input.chunks(CHUNK_BYTES)));
    tar::archive(&members)
}
