//! Finds OVMF, the UEFI firmware for QEMU: by the descriptions that distributions install, or in the usual places.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Kind, Result};

/// A UEFI firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flash {
    /// Its code, which nothing writes to.
    pub code: PathBuf,
    /// QEMU's name for the format of that file.
    pub code_format: String,
    /// Its variables as they are at first.
    pub variables: PathBuf,
    /// QEMU's name for the format of that file.
    pub variables_format: String,
}

/// Where distributions describe what they install. A name that comes again further up stands for the one below.
const DESCRIPTIONS: [&str; 3] = ["/etc/qemu/firmware", "/usr/local/share/qemu/firmware", "/usr/share/qemu/firmware"];

/// Where the code and the variables lie, where nothing describes them.
const USUAL_PLACES: [(&str, &str); 6] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
];

/// A description is a few lines; more than this is none.
const MAX_DESCRIPTION_BYTES: u64 = 1 << 16;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Description {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    executable: Option<FlashFile>,
    nvram_template: Option<FlashFile>,
}

#[derive(Deserialize)]
struct FlashFile {
    filename: PathBuf,
    format: String,
}

#[derive(Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

/// The firmware for a machine of today, or for an old one.
pub fn find(for_old_machine: bool) -> Result<Flash> {
    let described = descriptions().into_iter().find_map(|text| suits(&text, for_old_machine));
    let usual = || USUAL_PLACES.iter().map(|(code, variables)| raw(code, variables)).find(is_there);
    described.or_else(usual).ok_or_else(|| {
        let message = "find the UEFI firmware: OVMF is not installed; install the package ovmf (Debian, Ubuntu), \
                       edk2-ovmf (Fedora, Arch) or qemu-ovmf-x86_64 (SUSE)";
        Error::new(Kind::Io, message)
    })
}

fn raw(code: &str, variables: &str) -> Flash {
    let format = || "raw".to_owned();
    Flash { code: code.into(), code_format: format(), variables: variables.into(), variables_format: format() }
}

fn is_there(flash: &Flash) -> bool {
    flash.code.is_file() && flash.variables.is_file()
}

/// The texts of all descriptions, in the order in which they are to be tried: by file name.
fn descriptions() -> Vec<String> {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in DESCRIPTIONS {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in entries.filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
            if !files.iter().any(|known| known.file_name() == path.file_name()) {
                files.push(path);
            }
        }
    }
    files.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
    files.iter().filter_map(|path| read_small(path)).collect()
}

fn read_small(path: &Path) -> Option<String> {
    let is_small = std::fs::metadata(path).is_ok_and(|found| found.len() <= MAX_DESCRIPTION_BYTES);
    is_small.then(|| std::fs::read_to_string(path).ok()).flatten()
}

/// The firmware of a description, if it suits: plain UEFI on flash. Secure Boot would refuse what its owner has not signed
/// with keys of their own, and takes a machine with SMM.
fn suits(text: &str, for_old_machine: bool) -> Option<Flash> {
    let Description { interface_types, mapping, targets, features } = serde_json::from_str(text).ok()?;
    let unwanted = ["secure-boot", "requires-smm", "enrolled-keys"];
    let plain = !features.iter().any(|feature| unwanted.contains(&feature.as_str()));
    let machine = if for_old_machine { "pc-i440fx-" } else { "pc-q35-" };
    let suits = |target: &Target| {
        target.architecture == "x86_64" && target.machines.iter().any(|name| name.starts_with(machine) || name == "*")
    };
    let fits = interface_types.iter().any(|kind| kind == "uefi") && targets.iter().any(suits);
    if !plain || !fits || mapping.device != "flash" {
        return None;
    }
    let (code, variables) = (mapping.executable?, mapping.nvram_template?);
    let known = |file: &FlashFile| ["raw", "qcow2"].contains(&file.format.as_str());
    if !known(&code) || !known(&variables) {
        return None;
    }
    let flash = Flash {
        code: code.filename,
        code_format: code.format,
        variables: variables.filename,
        variables_format: variables.format,
    };
    Some(flash).filter(is_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(folder: &Path, features: &str, machine: &str) -> String {
        let file = |name: &str| format!(r#"{{"filename": "{}", "format": "raw"}}"#, folder.join(name).display());
        format!(
            r#"{{"description": "x", "interface-types": ["uefi"], "features": [{features}], "tags": [],
                "mapping": {{"device": "flash", "executable": {}, "nvram-template": {}}},
                "targets": [{{"architecture": "x86_64", "machines": ["{machine}"]}}]}}"#,
            file("code"),
            file("vars")
        )
    }

    #[test]
    fn a_description_suits_if_it_is_plain_and_its_files_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let plain = description(folder.path(), "\"acpi-s3\"", "pc-q35-*");
        assert_eq!(suits(&plain, false), None);
        ["code", "vars"].iter().for_each(|name| std::fs::write(folder.path().join(name), b"").unwrap());
        assert_eq!(suits(&plain, false).unwrap().code, folder.path().join("code"));
        assert_eq!(suits(&plain, true), None);
        assert_eq!(suits(&description(folder.path(), "\"secure-boot\"", "pc-q35-*"), false), None);
        assert_eq!(suits("{}", false), None);
    }
}
