//! An ordered map whose clone is a point in time.
//!
//! It is a B+-tree: items lie in leaves, branches only lead to them. Every node is under an
//! [`Arc`], and a change copies the nodes on its path that somebody else still holds
//! ([`Arc::make_mut`]). So a clone takes one reference, whatever the size, and shows no later
//! change; the first change of a leaf after it copies some 60 items in each of three or four
//! nodes. This is how a snapshot is taken between two turns of the event loop, and written out in
//! slices while writes go on.
//!
//! The price is paid at the end: dropping a clone frees, all at once, what was replaced meanwhile
//! and only the clone still held. [`Tree::into_leaves`] takes one apart leaf by leaf instead.
//!
//! Why not the standard `BTreeMap`: its clone copies every item, which stops the loop for as long
//! as there are keys.
//!
//! What is left out: nodes keep no link to their parent or siblings (a shared node has many), so an
//! iterator carries the path to where it stands.

use std::borrow::Borrow;
use std::ops::Bound;
use std::slice;
use std::sync::Arc;
use std::vec;

/// The most items in a leaf, and children in a branch: few enough to be copied within
/// microseconds, enough that four levels hold ten million items.
const MAX_WIDTH: usize = 64;

/// A node that a removal leaves below this is joined with a sibling.
const MIN_WIDTH: usize = 16;

/// An item that carries its own key. Cloning one must be cheap: a reference or a few words.
pub(super) trait Keyed: Clone {
    /// What items are ordered by and found by.
    type Key: Ord + ?Sized;
    /// A key of its own, without the rest of the item, as branches hold it.
    type Separator: Borrow<Self::Key> + Clone;

    /// The item's key. It never changes while the item is in a tree.
    fn key(&self) -> &Self::Key;

    /// A copy of the key that keeps nothing else of the item alive.
    fn separator(&self) -> Self::Separator;
}

/// The ordered map.
///
/// Invariants:
/// - All leaves are equally deep.
/// - A branch has at most [`MAX_WIDTH`] children; at least [`MIN_WIDTH`], or 2 if it is the root.
/// - A leaf has at most [`MAX_WIDTH`] items; at least one, unless it is the root.
/// - `len` is the number of items in all leaves.
#[derive(Clone)]
pub(super) struct Tree<T: Keyed> {
    root: Arc<Node<T>>,
    len: usize,
}

/// Invariant: the items of a leaf ascend strictly by key.
#[derive(Clone)]
enum Node<T: Keyed> {
    Leaf(Vec<T>),
    Branch(Branch<T>),
}

/// Invariants:
/// - There is one separator fewer than there are children, and separators ascend strictly.
/// - Keys below `children[i]` are at or above `separators[i - 1]` and below `separators[i]`.
#[derive(Clone)]
struct Branch<T: Keyed> {
    separators: Vec<T::Separator>,
    children: Vec<Arc<Node<T>>>,
}

/// The upper part of a node that grew too wide, and the lowest key that may lie in it.
struct Split<T: Keyed> {
    separator: T::Separator,
    right: Node<T>,
}

/// The items from some key on, ascending.
pub(super) struct Iter<'a, T: Keyed> {
    leaf: slice::Iter<'a, T>,
    /// The children still to be visited of each branch on the path, the root's first.
    above: Vec<slice::Iter<'a, Arc<Node<T>>>>,
}

/// A tree that is being taken apart, leaf by leaf and ascending. What only it still held is freed
/// with each leaf, so that no call takes long.
pub(super) struct Leaves<T: Keyed> {
    /// The children still to be visited of each branch on the path, the root's first.
    above: Vec<vec::IntoIter<Arc<Node<T>>>>,
}

/// One leaf of a tree that was taken apart.
pub(super) struct Leaf<T: Keyed>(Arc<Node<T>>);

impl<T: Keyed> Leaf<T> {
    /// Its items, ascending.
    pub(super) fn items(&self) -> &[T] {
        match &*self.0 {
            Node::Leaf(items) => items,
            Node::Branch(_) => unreachable!("only leaves are given out"),
        }
    }
}

impl<T: Keyed> Iterator for Leaves<T> {
    type Item = Leaf<T>;

    fn next(&mut self) -> Option<Leaf<T>> {
        loop {
            let Some(node) = self.above.last_mut()?.next() else {
                self.above.pop();
                continue;
            };
            match &*node {
                Node::Leaf(_) => return Some(Leaf(node)),
                // Of a branch that is shared this copies some references.
                Node::Branch(_) => match Arc::unwrap_or_clone(node) {
                    Node::Branch(branch) => self.above.push(branch.children.into_iter()),
                    Node::Leaf(_) => unreachable!("it was a branch a moment ago"),
                },
            }
        }
    }
}

impl<T: Keyed> Default for Tree<T> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl<T: Keyed> Tree<T> {
    /// How many items there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The item with this key.
    pub(super) fn get(&self, key: &T::Key) -> Option<&T> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Branch(branch) => node = &branch.children[branch.child_with(key)],
                Node::Leaf(items) => return position(items, key).ok().map(|at| &items[at]),
            }
        }
    }

    /// The item with this key, to be changed in place. Its key must stay what it is.
    pub(super) fn get_mut(&mut self, key: &T::Key) -> Option<&mut T> {
        let mut node = Arc::make_mut(&mut self.root);
        loop {
            match node {
                Node::Branch(branch) => {
                    let at = branch.child_with(key);
                    node = Arc::make_mut(&mut branch.children[at]);
                }
                Node::Leaf(items) => return position(items, key).ok().map(|at| &mut items[at]),
            }
        }
    }

    /// Puts an item in, and gives back the one that had the same key.
    pub(super) fn insert(&mut self, item: T) -> Option<T> {
        let (replaced, split) = Arc::make_mut(&mut self.root).insert(item);
        if let Some(Split { separator, right }) = split {
            let children = vec![Arc::clone(&self.root), Arc::new(right)];
            self.root = Arc::new(Node::Branch(Branch { separators: vec![separator], children }));
        }
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Takes the item with this key out. Nothing is copied if there is none.
    pub(super) fn remove(&mut self, key: &T::Key) -> Option<T> {
        self.get(key)?;
        let removed = Arc::make_mut(&mut self.root).remove(key)?;
        if let Node::Branch(Branch { children, .. }) = &*self.root
            && let [only] = &children[..]
        {
            self.root = Arc::clone(only);
        }
        self.len -= 1;
        Some(removed)
    }

    /// The items from `lower` on, ascending.
    pub(super) fn range(&self, lower: Bound<&T::Key>) -> Iter<'_, T> {
        let mut above = Vec::new();
        let mut node = &*self.root;
        loop {
            match node {
                Node::Branch(branch) => {
                    let at = match lower {
                        Bound::Included(key) | Bound::Excluded(key) => branch.child_with(key),
                        Bound::Unbounded => 0,
                    };
                    above.push(branch.children[at + 1..].iter());
                    node = &branch.children[at];
                }
                Node::Leaf(items) => {
                    let first = items.partition_point(|item| match lower {
                        Bound::Included(key) => item.key() < key,
                        Bound::Excluded(key) => item.key() <= key,
                        Bound::Unbounded => false,
                    });
                    return Iter { leaf: items[first..].iter(), above };
                }
            }
        }
    }

    /// Takes the tree apart.
    pub(super) fn into_leaves(self) -> Leaves<T> {
        Leaves { above: vec![vec![self.root].into_iter()] }
    }

    /// All items, ascending.
    pub(super) fn iter(&self) -> Iter<'_, T> {
        self.range(Bound::Unbounded)
    }
}

impl<T: Keyed> Node<T> {
    /// Items of a leaf, children of a branch.
    fn width(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Branch(branch) => branch.children.len(),
        }
    }

    fn insert(&mut self, item: T) -> (Option<T>, Option<Split<T>>) {
        match self {
            Node::Leaf(items) => insert_in_leaf(items, item),
            Node::Branch(branch) => branch.insert(item),
        }
    }

    fn remove(&mut self, key: &T::Key) -> Option<T> {
        match self {
            Node::Leaf(items) => position(items, key).ok().map(|at| items.remove(at)),
            Node::Branch(branch) => branch.remove(key),
        }
    }

    /// Takes over what lies in the next sibling, from `separator` on; gives half of it all back if
    /// it is too much for one node.
    fn absorb(&mut self, separator: T::Separator, right: Node<T>) -> Option<Split<T>> {
        match (self, right) {
            (Node::Leaf(items), Node::Leaf(more)) => {
                items.extend(more);
                split_leaf(items, items.len() / 2)
            }
            (Node::Branch(branch), Node::Branch(more)) => {
                branch.separators.push(separator);
                branch.separators.extend(more.separators);
                branch.children.extend(more.children);
                branch.split()
            }
            _ => unreachable!("siblings are equally deep"),
        }
    }
}

impl<T: Keyed> Branch<T> {
    /// Which child has `key`, if any has.
    fn child_with(&self, key: &T::Key) -> usize {
        self.separators.partition_point(|separator| separator.borrow() <= key)
    }

    fn insert(&mut self, item: T) -> (Option<T>, Option<Split<T>>) {
        let at = self.child_with(item.key());
        let (replaced, split) = Arc::make_mut(&mut self.children[at]).insert(item);
        if let Some(split) = split {
            self.insert_child(at, split);
        }
        (replaced, self.split())
    }

    fn remove(&mut self, key: &T::Key) -> Option<T> {
        let at = self.child_with(key);
        let removed = Arc::make_mut(&mut self.children[at]).remove(key)?;
        if self.children[at].width() < MIN_WIDTH {
            self.join(at.saturating_sub(1));
        }
        Some(removed)
    }

    /// Puts the right part of a child that was split behind its left part, `children[left]`.
    fn insert_child(&mut self, left: usize, split: Split<T>) {
        self.separators.insert(left, split.separator);
        self.children.insert(left + 1, Arc::new(split.right));
    }

    /// Makes one child of `children[left]` and the next, or two equally wide ones.
    fn join(&mut self, left: usize) {
        let right = Arc::unwrap_or_clone(self.children.remove(left + 1));
        let separator = self.separators.remove(left);
        if let Some(split) = Arc::make_mut(&mut self.children[left]).absorb(separator, right) {
            self.insert_child(left, split);
        }
    }

    /// Gives up the upper half if there are too many children.
    fn split(&mut self) -> Option<Split<T>> {
        if self.children.len() <= MAX_WIDTH {
            return None;
        }
        let middle = self.children.len() / 2;
        let children = self.children.split_off(middle);
        let separators = self.separators.split_off(middle);
        let separator = self.separators.pop().expect("a separator stands before each child but the first");
        Some(Split { separator, right: Node::Branch(Branch { separators, children }) })
    }
}

impl<'a, T: Keyed> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        loop {
            if let Some(item) = self.leaf.next() {
                return Some(item);
            }
            match self.above.last_mut()?.next().map(|child| &**child) {
                Some(Node::Branch(branch)) => self.above.push(branch.children.iter()),
                Some(Node::Leaf(items)) => self.leaf = items.iter(),
                None => drop(self.above.pop()),
            }
        }
    }
}

/// Where in a leaf the key is, or would be.
fn position<T: Keyed>(items: &[T], key: &T::Key) -> Result<usize, usize> {
    items.binary_search_by(|item| item.key().cmp(key))
}

fn insert_in_leaf<T: Keyed>(items: &mut Vec<T>, item: T) -> (Option<T>, Option<Split<T>>) {
    match position(items, item.key()) {
        Ok(at) => (Some(std::mem::replace(&mut items[at], item)), None),
        Err(at) => {
            if items.len() == items.capacity() {
                // Doubling would leave a quarter of all slots empty, and there are many leaves.
                items.reserve_exact((items.len() / 8).max(4));
            }
            items.insert(at, item);
            // Keys that come in ascending order would leave a trail of half-empty leaves if those
            // were split in the middle; so a leaf that grows at its end stays full.
            let at_end = at + 1 == items.len();
            (None, split_leaf(items, if at_end { at } else { items.len() / 2 }))
        }
    }
}

/// Gives up the items from `at` on if there are too many.
fn split_leaf<T: Keyed>(items: &mut Vec<T>, at: usize) -> Option<Split<T>> {
    if items.len() <= MAX_WIDTH {
        return None;
    }
    let right = items.split_off(at);
    items.shrink_to_fit();
    Some(Split { separator: right[0].separator(), right: Node::Leaf(right) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Keyed for (u16, u32) {
        type Key = u16;
        type Separator = u16;

        fn key(&self) -> &u16 {
            &self.0
        }

        fn separator(&self) -> u16 {
            self.0
        }
    }

    type Pairs = Tree<(u16, u32)>;

    /// Asserts the invariants of a node and gives its depth.
    fn check(node: &Node<(u16, u32)>, root: bool, keys: (Bound<u16>, Bound<u16>)) -> usize {
        use std::ops::RangeBounds;
        match node {
            Node::Leaf(items) => {
                assert!(items.windows(2).all(|pair| pair[0].0 < pair[1].0));
                assert!(items.iter().all(|item| keys.contains(&item.0)));
                assert!(items.len() <= MAX_WIDTH && (root || !items.is_empty()));
                1
            }
            Node::Branch(branch) => {
                let least = if root { 2 } else { MIN_WIDTH };
                assert!((least..=MAX_WIDTH).contains(&branch.children.len()));
                assert_eq!(branch.separators.len() + 1, branch.children.len());
                let bound = |at: usize| branch.separators.get(at).copied();
                let depths: Vec<usize> = (0..branch.children.len())
                    .map(|at| {
                        let low = at.checked_sub(1).and_then(bound).map_or(keys.0, Bound::Included);
                        let high = bound(at).map_or(keys.1, Bound::Excluded);
                        check(&branch.children[at], false, (low, high))
                    })
                    .collect();
                assert!(depths.iter().all(|depth| *depth == depths[0]));
                depths[0] + 1
            }
        }
    }

    fn assert_same(tree: &Pairs, model: &BTreeMap<u16, u32>) {
        check(&tree.root, true, (Bound::Unbounded, Bound::Unbounded));
        assert_eq!(tree.len(), model.len());
        assert!(tree.iter().copied().eq(model.iter().map(|(key, value)| (*key, *value))));
    }

    /// A pass over many keys: a run that ascends or descends, or a scatter; in or out.
    #[derive(Clone, Debug)]
    struct Pass {
        insert: bool,
        first: u16,
        step: u16,
        count: u16,
    }

    fn passes() -> impl Strategy<Value = Vec<Pass>> {
        let step = prop_oneof![Just(1), Just(u16::MAX), Just(7919)];
        let pass = (any::<bool>(), 0..6000_u16, step, 0..3000_u16);
        let pass = pass.prop_map(|(insert, first, step, count)| Pass { insert, first, step, count });
        prop::collection::vec(pass, 1..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn tree_after_any_passes_equals_the_model_and_its_clones_stay_what_they_were(passes in passes()) {
            let (mut tree, mut model) = (Pairs::default(), BTreeMap::new());
            let mut clones = Vec::new();
            for (number, pass) in passes.iter().enumerate() {
                clones.push((tree.clone(), model.clone()));
                for turn in 0..pass.count {
                    let key = pass.first.wrapping_add(pass.step.wrapping_mul(turn)) % 6000;
                    if pass.insert {
                        let replaced = model.insert(key, number as u32).map(|value| (key, value));
                        prop_assert_eq!(tree.insert((key, number as u32)), replaced);
                    } else {
                        let removed = model.remove(&key).map(|value| (key, value));
                        prop_assert_eq!(tree.remove(&key), removed);
                    }
                }
                assert_same(&tree, &model);
            }
            for (clone, model) in &clones {
                assert_same(clone, model);
            }
        }

        #[test]
        fn range_from_any_bound_equals_the_model(keys in prop::collection::btree_set(0..2000_u16, 0..600), from in 0..2000_u16) {
            let mut tree = Pairs::default();
            for key in &keys {
                tree.insert((*key, 0));
            }
            for lower in [Bound::Included(&from), Bound::Excluded(&from), Bound::Unbounded] {
                let expected = keys.range((lower, Bound::Unbounded)).copied();
                prop_assert!(tree.range(lower).map(|item| item.0).eq(expected));
            }
            prop_assert_eq!(tree.get(&from).is_some(), keys.contains(&from));
        }
    }

    #[test]
    fn item_changed_in_place_changes_in_no_clone() {
        let mut tree = Pairs::default();
        for key in 0..1000 {
            tree.insert((key, 1));
        }
        let clone = tree.clone();
        tree.get_mut(&500).unwrap().1 = 2;
        assert_eq!((tree.get(&500), clone.get(&500)), (Some(&(500, 2)), Some(&(500, 1))));
        assert!(tree.get_mut(&1000).is_none());
    }

    #[test]
    fn tree_taken_apart_gives_every_item_and_leaves_its_clones_whole() {
        for count in [0, 1, 64, 65, 10_000] {
            let mut tree = Pairs::default();
            let model: BTreeMap<u16, u32> = (0..count).map(|key| (key, u32::from(key) * 3)).collect();
            model.iter().for_each(|(key, value)| _ = tree.insert((*key, *value)));
            let clone = tree.clone();
            let items: Vec<_> = tree.into_leaves().flat_map(|leaf| leaf.items().to_vec()).collect();
            assert!(items.iter().copied().eq(model.iter().map(|(key, value)| (*key, *value))));
            assert_same(&clone, &model);
        }
    }

    #[test]
    fn tree_of_which_little_is_left_has_few_leaves() {
        let mut tree = Pairs::default();
        let mut model: BTreeMap<u16, u32> = (0..6000).map(|key| (key, 0)).collect();
        model.iter().for_each(|(key, value)| _ = tree.insert((*key, *value)));
        for key in (0..6000).filter(|key| key % 50 != 0) {
            tree.remove(&key);
            model.remove(&key);
        }
        assert_same(&tree, &model);
        let leaves = tree.into_leaves().count();
        assert!(leaves <= model.len() / MIN_WIDTH + 1, "{leaves} leaves of {} items", model.len());
    }

    #[test]
    fn keys_in_ascending_order_leave_full_leaves() {
        let mut tree = Pairs::default();
        for key in 0..6400 {
            tree.insert((key, 0));
        }
        let mut node = &*tree.root;
        while let Node::Branch(branch) = node {
            node = &branch.children[0];
        }
        assert_eq!(node.width(), MAX_WIDTH);
    }
}
