//! Answers to commands and options of other tools.

use clap::error::{ContextKind, ContextValue};

/// Commands of others.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["list", "ls", "snapshot"], "\"tintype snapshots\" lists the snapshots of a repository"),
    (
        &["create"],
        "\"tintype init\" makes a repository, \"tintype backup\" a snapshot, and \"tintype convert\" an image of a disk",
    ),
    (&["resize"], "\"tintype convert SOURCE TARGET --extend-to SIZE\" makes a larger disk of a disk"),
    (&["commit"], "\"tintype convert OVERLAY TARGET\" makes one image of a chain; nothing is written in place"),
    (&["rebase"], "\"tintype convert SOURCE TARGET --backing FILE\" makes an image over another backing file"),
    (&["amend"], "\"tintype convert\" makes an image anew; nothing is written in place"),
    (&["dd"], "\"tintype convert SOURCE TARGET --offset BYTES --size BYTES\" takes a part of a disk"),
    (&["copy", "cp", "clone"], "\"tintype convert SOURCE TARGET\" copies a disk"),
    (&["umount"], "\"tintype unmount FOLDER\" ends a mount"),
    (&["delete", "rm", "remove"], "\"tintype forget SNAPSHOT\" forgets a snapshot, \"tintype prune\" frees its space"),
    (&["gc", "compact"], "\"tintype prune\" frees what no snapshot uses"),
    (&["extract"], "\"tintype restore SNAPSHOT TARGET\" restores disks; \"tintype mount\" shows what is on them"),
    (
        &["unlock", "break-lock"],
        "there is nothing to unlock: what a backup that died has left keeps nobody from working",
    ),
    (&["passwd"], "\"tintype key passwd\" changes a password"),
    (&["recover", "rebuild-index"], "\"tintype repair\" mends a damaged repository"),
];

/// Options of qemu-img.
const OPTIONS: &[(&str, &str)] = &[
    ("-c", "\"--compress zstd\" compresses"),
    ("-p", "at a terminal the progress is always shown"),
    ("-U", "\"--force-share\" reads an image that a running machine has open"),
    ("-b", "\"--backing FILE\" names the image to inherit from"),
    ("-B", "\"--backing FILE\" names the image to inherit from"),
    ("-F", "\"--backing-format FORMAT\" says the format of the backing file"),
    ("-l", "a snapshot inside an image is a part of its address: IMAGE?snapshot=NAME"),
    ("-m", "\"--threads N\" says how many workers to start"),
    ("-W", "the workers write as they come, without being told to"),
    ("-S", "holes and zeros take no space, without being told to"),
    ("-t", "what is written is always synced"),
    ("-T", "devices are always read past the page cache"),
];

/// Largest edit distance between a word and a command suggested for it, in letters.
const MAX_DISTANCE: usize = 2;

/// Returns the answer to an unknown command or option. After a command, as in `key rm`, words mean something else.
pub fn hint(error: &clap::Error, is_nested: bool) -> Option<&'static str> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let command = word(ContextKind::InvalidSubcommand).filter(|_| !is_nested);
    let of_command = COMMANDS.iter().find(|(words, _)| command.is_some_and(|command| words.contains(&command)));
    let option = word(ContextKind::InvalidArg);
    let of_option = OPTIONS.iter().find(|(own, _)| option == Some(own));
    of_command.map(|(_, hint)| *hint).or_else(|| of_option.map(|(_, hint)| *hint))
}

/// Returns true if the parser's suggestion for a command is far-fetched.
pub fn is_far_fetched(error: &clap::Error) -> bool {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return false };
    let distance = |suggested: &String| strsim::damerau_levenshtein(word, suggested);
    match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(suggested)) => distance(suggested) > MAX_DISTANCE,
        Some(ContextValue::Strings(suggested)) => suggested.iter().all(|one| distance(one) > MAX_DISTANCE),
        _ => false,
    }
}
