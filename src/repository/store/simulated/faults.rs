//! What goes wrong in a simulated store, and how much was asked of it.

/// How often things go wrong, in a thousand operations that could. All zero: nothing does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Puts and deletes whose answer is lost. A third took effect, a third never will, a third do it later.
    pub unclear: u16,
    /// A request whose answer was lost takes effect after at most so many operations of all clients.
    pub max_delay_operations: u64,
    /// Puts that find the store full.
    pub no_space: u16,
    /// Operations of any kind that fail, and do nothing. A sync that fails is the client's last operation.
    pub failure: u16,
    /// Reads and listings after which the thread gives way to others.
    pub give_way: u16,
}

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Create an object.
    Put,
    /// Read a whole object.
    Get,
    /// Read a part of an object.
    GetRange,
    /// Find an object's length.
    Length,
    /// List a folder.
    List,
    /// Delete an object.
    Delete,
    /// Make everything durable.
    Sync,
}

/// How much of one kind was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Operations, with those that failed.
    pub operations: u64,
    /// Bytes of objects that were to be written, or were read.
    pub bytes: u64,
}

/// How much was asked of a store by all of its clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([Count; 7]);

impl Counts {
    /// The operations of one kind.
    pub fn of(&self, operation: Operation) -> Count {
        self.0[operation as usize]
    }

    /// All operations.
    pub fn operations(&self) -> u64 {
        self.0.iter().map(|count| count.operations).sum()
    }

    pub(super) fn add(&mut self, operation: Operation, operations: u64, bytes: u64) {
        let count = &mut self.0[operation as usize];
        count.operations += operations;
        count.bytes += bytes;
    }
}
