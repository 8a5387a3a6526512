//! The wanted paths as a trie whose edges share one hash table.

use super::Span;

/// A node of the trie. The root is 0; as no edge leads there, 0 also says "no node".
pub(super) type NodeId = u32;
pub(super) const ROOT: NodeId = 0;
pub(super) const NOWHERE: NodeId = 0;

/// The dotted paths to be found, compiled into a trie. Slot `i` of a result belongs to path `i`.
///
/// `"a.b"` is the member `b` of the member `a` of the document; `""` is the document itself. A path may
/// appear twice, and may be the beginning of another.
#[derive(Clone, Debug)]
pub struct Paths {
    nodes: Vec<Node>,
    /// Slots in the order of a depth-first walk, so that those below a node are neighbours.
    slots: Vec<u32>,
    /// Open addressing with linear probing; a power of two, at most half full.
    edges: Vec<Edge>,
    /// Takes a hash to an index of `edges`: its highest bits.
    shift: u32,
}

/// A node's places in [`Paths::slots`]: `first..below` are its own, `below..end` those of its descendants.
#[derive(Clone, Copy, Debug)]
struct Node {
    first: u32,
    below: u32,
    end: u32,
    inner: bool,
}

#[derive(Clone, Debug)]
struct Edge {
    name: Name,
    parent: NodeId,
    /// [`NOWHERE`] marks a free place.
    child: NodeId,
    /// What lies between the first and the last eight bytes of a long name.
    middle: Box<[u8]>,
}

/// A member name by its ends: equal names have equal ends, and up to sixteen bytes also the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The first eight bytes, little-endian, followed by zeros if there are fewer.
    head: u64,
    /// The last eight bytes if there are more than eight, otherwise 0.
    tail: u64,
    length: u32,
}

impl Name {
    pub(super) fn of(bytes: &[u8]) -> Name {
        let length = bytes.len() as u32;
        match (bytes.first_chunk(), bytes.last_chunk()) {
            (Some(head), Some(tail)) => {
                let tail = if length > 8 { u64::from_le_bytes(*tail) } else { 0 };
                Name { head: u64::from_le_bytes(*head), tail, length }
            }
            _ => Name { head: padded(bytes), tail: 0, length },
        }
    }

    /// The name `bytes`, when the eight bytes from its start on are already at hand as `word`.
    #[inline(always)]
    pub(super) fn with_head(word: u64, bytes: &[u8]) -> Name {
        let length = bytes.len();
        if length < 8 {
            return Name { head: word & !(u64::MAX << (8 * length)), tail: 0, length: length as u32 };
        }
        let tail = match bytes.last_chunk() {
            Some(tail) if length > 8 => u64::from_le_bytes(*tail),
            _ => 0,
        };
        Name { head: word, tail, length: length as u32 }
    }

    /// A multiplicative hash: the good bits are the high ones.
    #[inline(always)]
    fn hash(self, parent: NodeId) -> u64 {
        let place = (u64::from(parent) << 32 | u64::from(self.length)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (self.head ^ self.tail.rotate_left(29) ^ place).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// Up to eight bytes as a little-endian word, followed by zeros.
pub(super) fn padded(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// No paths, for passes that only validate.
pub(super) static NOTHING: Paths = Paths { nodes: Vec::new(), slots: Vec::new(), edges: Vec::new(), shift: 63 };

impl Paths {
    /// Compiles the paths. Any text is a path; an empty step, as in `"a..b"`, is the empty member name.
    pub fn new<S: AsRef<str>>(paths: &[S]) -> Paths {
        let mut drafts = vec![Draft::default()];
        for (slot, path) in paths.iter().enumerate() {
            let mut node = 0;
            if !path.as_ref().is_empty() {
                for step in path.as_ref().split('.') {
                    node = child_of(&mut drafts, node, step);
                }
            }
            drafts[node].slots.push(slot as u32);
        }
        let capacity = (2 * drafts.len()).next_power_of_two();
        let free = Edge { name: Name::of(b""), parent: ROOT, child: NOWHERE, middle: Box::default() };
        let mut compiled = Paths {
            nodes: Vec::with_capacity(drafts.len()),
            slots: Vec::with_capacity(paths.len()),
            edges: vec![free; capacity],
            shift: u64::BITS - capacity.trailing_zeros(),
        };
        compiled.number_slots(&drafts);
        for (parent, draft) in drafts.iter().enumerate() {
            for (name, child) in &draft.children {
                compiled.insert(parent as NodeId, name.as_bytes(), *child as NodeId);
            }
        }
        compiled
    }

    /// How many paths there are, and so how many slots a result has.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether paths go on below the node.
    #[inline(always)]
    pub(super) fn is_inner(&self, node: NodeId) -> bool {
        self.nodes[node as usize].inner
    }

    /// The node reached from `parent` by the member `name`, whose bytes are `bytes`.
    #[inline(always)]
    pub(super) fn step(&self, parent: NodeId, name: Name, bytes: &[u8]) -> NodeId {
        let mask = self.edges.len() - 1;
        let mut place = (name.hash(parent) >> self.shift) as usize;
        loop {
            let edge = &self.edges[place & mask];
            if edge.child == NOWHERE {
                return NOWHERE;
            }
            if edge.name == name && edge.parent == parent && (name.length <= 16 || *edge.middle == *middle(bytes)) {
                return edge.child;
            }
            place += 1;
        }
    }

    /// Puts `span` into the node's slots.
    #[inline(always)]
    pub(super) fn record(&self, node: NodeId, span: Span, found: &mut [Span]) {
        let Node { first, below, .. } = self.nodes[node as usize];
        for &slot in &self.slots[first as usize..below as usize] {
            found[slot as usize] = span;
        }
    }

    /// Resets the slots of all nodes below this one.
    #[inline(always)]
    pub(super) fn reset_below(&self, node: NodeId, found: &mut [Span]) {
        let Node { below, end, .. } = self.nodes[node as usize];
        for &slot in &self.slots[below as usize..end as usize] {
            found[slot as usize] = Span::MISSING;
        }
    }

    /// Fills `nodes` and `slots`. A loop with its own stack: paths may have any number of steps.
    fn number_slots(&mut self, drafts: &[Draft]) {
        let unnumbered = Node { first: 0, below: 0, end: 0, inner: false };
        self.nodes.resize(drafts.len(), unnumbered);
        let mut pending = vec![Visit::Enter(0)];
        while let Some(visit) = pending.pop() {
            match visit {
                Visit::Enter(node) => {
                    let draft = &drafts[node];
                    self.nodes[node].first = self.slots.len() as u32;
                    self.slots.extend(&draft.slots);
                    self.nodes[node].below = self.slots.len() as u32;
                    self.nodes[node].inner = !draft.children.is_empty();
                    pending.push(Visit::Leave(node));
                    pending.extend(draft.children.iter().map(|(_, child)| Visit::Enter(*child)));
                }
                Visit::Leave(node) => self.nodes[node].end = self.slots.len() as u32,
            }
        }
    }

    fn insert(&mut self, parent: NodeId, name: &[u8], child: NodeId) {
        let key = Name::of(name);
        let mask = self.edges.len() - 1;
        let mut place = (key.hash(parent) >> self.shift) as usize & mask;
        while self.edges[place].child != NOWHERE {
            place = (place + 1) & mask;
        }
        self.edges[place] = Edge { name: key, parent, child, middle: middle(name).into() };
    }
}

/// What [`Name`] does not cover.
fn middle(name: &[u8]) -> &[u8] {
    name.get(8..name.len().saturating_sub(8)).unwrap_or_default()
}

/// A node while the trie is built.
#[derive(Default)]
struct Draft {
    slots: Vec<u32>,
    children: Vec<(String, usize)>,
}

enum Visit {
    Enter(usize),
    Leave(usize),
}

fn child_of(drafts: &mut Vec<Draft>, node: usize, step: &str) -> usize {
    if let Some((_, child)) = drafts[node].children.iter().find(|(name, _)| name == step) {
        return *child;
    }
    let child = drafts.len();
    drafts.push(Draft::default());
    drafts[node].children.push((step.to_owned(), child));
    child
}
