//! The property list: XML with the chunk tables in it.
//!
//! ```text
//!   plist / dict / "resource-fork" dict / "blkx" array / dict { "Name" string, "Data" data (base64) }
//! ```

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use roxmltree::{Document, Node, ParsingOptions};

use super::resource_fork::TableBytes;
use crate::error::{ImageError, Result};

const DOING: &str = "read DMG property list";

/// Most elements and texts in a property list: a partition takes some 25, and a disk has at most a few hundred of those.
const MAX_NODES: u32 = 200_000;

/// Longest tag, declaration or comment, in bytes. Apple's document type takes 110.
const MAX_TAG_BYTES: usize = 1024;

pub(super) fn read_tables(bytes: &[u8]) -> Result<Vec<TableBytes>> {
    let text =
        std::str::from_utf8(bytes).map_err(|cause| ImageError::corrupt(DOING, "it is no UTF-8").caused_by(cause))?;
    // Some writers count the zero byte after the text.
    let text = text.trim_end_matches('\0');
    check_plain(text)?;
    let options = ParsingOptions { allow_dtd: true, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)
        .map_err(|cause| ImageError::corrupt(DOING, "it is no XML that can be read").caused_by(cause))?;
    let top = document.root_element().first_element_child();
    let tables = top.and_then(|top| value(top, "resource-fork")).and_then(|fork| value(fork, "blkx"));
    let tables =
        tables.ok_or_else(|| ImageError::corrupt(DOING, "it has no chunk tables (\"resource-fork\", \"blkx\")"))?;
    tables.children().filter(Node::is_element).map(read_table).collect()
}

/// What property lists do not need, but lets a small text take much time or memory to parse, is refused.
fn check_plain(text: &str) -> Result<()> {
    for declaration in ["<!ENTITY", "<![CDATA["] {
        if text.contains(declaration) {
            return Err(ImageError::unsupported(DOING, format!("it contains \"{declaration}\"")));
        }
    }
    let tags = text.split('<').skip(1);
    let longest = tags.map(|tag| tag.find('>').unwrap_or(tag.len())).max().unwrap_or(0);
    if longest > MAX_TAG_BYTES {
        let detail = format!("it has a tag of {longest} bytes, at most {MAX_TAG_BYTES} are read");
        return Err(ImageError::limit_exceeded(DOING, detail));
    }
    Ok(())
}

/// The value of a key in a dictionary, where keys and values take turns.
fn value<'a, 'input>(dictionary: Node<'a, 'input>, key: &str) -> Option<Node<'a, 'input>> {
    let mut elements = dictionary.children().filter(Node::is_element);
    elements.find(|element| element.has_tag_name("key") && element.text().map(str::trim) == Some(key))?;
    elements.next()
}

fn read_table(table: Node<'_, '_>) -> Result<TableBytes> {
    let name = value(table, "Name").and_then(|name| name.text()).unwrap_or_default().to_owned();
    let fail = |what: &str| ImageError::corrupt(DOING, format!("the chunk table \"{}\" {what}", name.escape_debug()));
    let data = value(table, "Data").and_then(|data| data.text()).ok_or_else(|| fail("has no data"))?;
    let packed: Vec<u8> = data.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = BASE64_STANDARD.decode(packed).map_err(|cause| fail("is no base64").caused_by(cause))?;
    Ok(TableBytes { name, bytes })
}
