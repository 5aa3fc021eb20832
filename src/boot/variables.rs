//! The variables of a UEFI firmware: what a disk that came without its own needs among them.
//!
//! A firmware that was never told of a boot loader looks for `\EFI\BOOT\BOOTX64.EFI` only. A system that has its loader
//! elsewhere says so in a variable when it is installed; that stays in the computer when the disk goes.

/// Where a firmware volume says how long its header is, and its mark.
const VOLUME_MARK: (usize, &[u8]) = (40, b"_FVH");
const VOLUME_HEADER_LENGTH: usize = 48;

/// The begin of a store of variables that can be authenticated, which this kind of firmware has.
const STORE_GUID: [u8; 16] = *b"\x78\x2c\xf3\xaa\x7b\x94\x9a\x43\xa1\x80\x2e\x14\x4e\xc3\x77\x92";
const STORE_HEADER_BYTES: usize = 28;
/// Formatted, and healthy.
const STORE_STATE: [u8; 2] = [0x5a, 0xfe];

/// Whose variables the boot manager's are.
const GLOBAL_GUID: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";

/// What flash memory has where nothing was written.
const ERASED: u8 = 0xff;

/// Has the boot manager start this loader first, of whichever file system has it. False if these are no variables that are
/// known, or there are some already.
pub fn add_boot_entry(flash: &mut [u8], loader: &str) -> bool {
    let entry = [variable("Boot0000", &boot_option(loader)), variable("BootOrder", &[0, 0])].concat();
    let Some(place) = free_place(flash, entry.len()) else { return false };
    place.copy_from_slice(&entry);
    true
}

/// The begin of an empty store, so long.
fn free_place(flash: &mut [u8], length: usize) -> Option<&mut [u8]> {
    let (at, mark) = VOLUME_MARK;
    let header = flash.get(VOLUME_HEADER_LENGTH..VOLUME_HEADER_LENGTH + 2)?;
    let begin = usize::from(u16::from_le_bytes([header[0], header[1]]));
    let store = flash.get(begin..begin + STORE_HEADER_BYTES)?;
    let size = u32::from_le_bytes([store[16], store[17], store[18], store[19]]) as usize;
    let is_known = flash[at..].starts_with(mark) && store[..16] == STORE_GUID && store[20..22] == STORE_STATE;
    if !is_known || size < STORE_HEADER_BYTES + length {
        return None;
    }
    let place = flash.get_mut(begin + STORE_HEADER_BYTES..begin + STORE_HEADER_BYTES + length)?;
    place.iter().all(|byte| *byte == ERASED).then_some(place)
}

/// A variable as the store has it, filled up to the next one's begin.
fn variable(name: &str, data: &[u8]) -> Vec<u8> {
    // It stays (1), and is there while the firmware works (2) and afterwards (4).
    const ATTRIBUTES: u32 = 7;
    const ADDED: u8 = 0x3f;
    let name = utf16(name);
    let mut bytes = vec![0xaa, 0x55, ADDED, 0];
    bytes.extend(ATTRIBUTES.to_le_bytes());
    // A count, a time and a key, which only variables with signatures have.
    bytes.extend([0; 28]);
    bytes.extend((name.len() as u32).to_le_bytes());
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(GLOBAL_GUID);
    bytes.extend(name);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), ERASED);
    bytes
}

/// What the boot manager knows of a loader: that it is active, its name, and the file, on no device in particular.
fn boot_option(loader: &str) -> Vec<u8> {
    const ACTIVE: u32 = 1;
    const FILE: [u8; 2] = [4, 4];
    const END: [u8; 4] = [0x7f, 0xff, 4, 0];
    let file = utf16(loader);
    let mut path = FILE.to_vec();
    path.extend((file.len() as u16 + 4).to_le_bytes());
    path.extend(file);
    path.extend(END);
    let mut option = ACTIVE.to_le_bytes().to_vec();
    option.extend((path.len() as u16).to_le_bytes());
    option.extend(utf16("the disk's loader"));
    option.extend(path);
    option
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Variables without one, as OVMF brings them.
    fn empty() -> Vec<u8> {
        let mut flash = vec![ERASED; 1 << 16];
        flash[40..44].copy_from_slice(b"_FVH");
        flash[48..50].copy_from_slice(&72u16.to_le_bytes());
        flash[72..88].copy_from_slice(&STORE_GUID);
        flash[88..92].copy_from_slice(&0x8000u32.to_le_bytes());
        flash[92..100].copy_from_slice(&[0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
        flash
    }

    #[test]
    fn an_entry_goes_to_where_the_first_variable_is_looked_for() {
        let mut flash = empty();
        assert!(add_boot_entry(&mut flash, r"\EFI\DEBIAN\SHIMX64.EFI"));
        assert_eq!(flash[100..103], [0xaa, 0x55, 0x3f]);
        let name_bytes = u32::from_le_bytes(flash[136..140].try_into().unwrap()) as usize;
        let data_bytes = u32::from_le_bytes(flash[140..144].try_into().unwrap()) as usize;
        assert_eq!(flash[160..160 + name_bytes], utf16("Boot0000"));
        let next = (160 + name_bytes + data_bytes).next_multiple_of(4);
        assert_eq!(flash[next..next + 3], [0xaa, 0x55, 0x3f]);
        assert_eq!(flash[next + 60..next + 60 + 20], utf16("BootOrder"));
        assert_eq!(flash[next + 80..next + 84], [0, 0, ERASED, ERASED]);
        assert!(!add_boot_entry(&mut flash, "again"), "there is one already");
    }

    #[test]
    fn other_flash_stays_as_it_is() {
        let mut small = empty();
        small[88..92].copy_from_slice(&64u32.to_le_bytes());
        let mut far = empty();
        far[48..50].copy_from_slice(&0xfffeu16.to_le_bytes());
        let mut other = empty();
        other[80] ^= 1;
        for mut flash in [vec![], vec![0; 60], small, far, other] {
            let before = flash.clone();
            assert!(!add_boot_entry(&mut flash, r"\A"));
            assert!(flash == before);
        }
    }
}
