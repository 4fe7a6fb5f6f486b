//! Rules that need the source parsed: who imports whom, who writes which field, how long a function is, what is never used.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Expr, Fields, Item, Member, UseTree, Visibility};

use super::{File, files, source};

/// A file imports only from files that stand on its own line or on an earlier one. The first prefix that fits says where a
/// file stands.
const FLOORS: &[&[&str]] = &[
    &[
        "src/proto/error.rs",
        "src/proto/limits.rs",
        "src/proto/time.rs",
        "src/proto/peer.rs",
        "src/proto/sid.rs",
        "src/proto/stats.rs",
    ],
    &["src/proto/ring.rs", "src/proto/framer.rs", "src/proto/output.rs", "src/proto/slots.rs"],
    &["src/proto/buffers.rs", "src/proto/wheel.rs", "src/proto/auth.rs", "src/proto/json"],
    &["src/proto/message"],
    &["src/proto/inbox.rs"],
    &["src/proto/endpoint", "src/proto/outbox"],
    &["src/os/sys", "src/os/clock.rs", "src/os/random.rs"],
    &["src/os/names/namespace.rs", "src/os/names/address.rs"],
    &["src/os/files/process", "src/os/files/group.rs", "src/os/files/remedy.rs", "src/os/files/reach.rs"],
    &["src/os/files/private_dir"],
    &["src/os/names/location", "src/os/files/capability.rs"],
    &["src/os/socket/stream.rs", "src/os/socket/connect.rs", "src/os/socket/lock.rs"],
    &["src/os/socket/probe.rs", "src/os/socket/waiter.rs"],
    &["src/os/socket/file.rs"],
    &["src/os/socket/claim.rs"],
    &["src/os/socket/adopt.rs"],
    &["src/os/pipe/stream.rs"],
    &["src/os/pipe/listener.rs", "src/os/pipe/waiter.rs", "src/os/pipe/connect.rs"],
    &["src/os/pipe/claim.rs"],
    &["src/os/files/sweep"],
    &["src/os/transport"],
    &["src/links.rs"],
    &["src/server", "src/client.rs"],
    &["src/peers.rs"],
    &["src/lib.rs"],
];

/// Modules that only gather others: what they say is checked in the files that they gather.
const GATHERERS: &[&str] = &[
    "src/lib.rs",
    "src/proto/mod.rs",
    "src/os/mod.rs",
    "src/os/names/mod.rs",
    "src/os/files/mod.rs",
    "src/os/socket/mod.rs",
    "src/os/pipe/mod.rs",
];

fn parse(file: &File) -> syn::File {
    syn::parse_file(&file.text).unwrap_or_else(|error| panic!("{}: {error}", file.path))
}

/// The module path of a source file: `src/proto/ring.rs` is `["proto", "ring"]`.
fn module_of(path: &str) -> Vec<String> {
    let below = path.strip_prefix("src/").unwrap_or(path).strip_suffix(".rs").unwrap_or(path);
    let below = below.strip_suffix("/mod").unwrap_or(below);
    if below == "lib" { Vec::new() } else { below.split('/').map(str::to_owned).collect() }
}

/// Every path in a file that begins with `crate`, `super` or `self`, in full.
struct Paths {
    /// The module in which we are.
    module: Vec<String>,
    found: Vec<(usize, Vec<String>)>,
}

impl Paths {
    /// The path as it is from the root of the crate; `None` if it leads out of the crate.
    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        let mut module = self.module.clone();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                module.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {}
            _ => return None,
        }
        while rest.first().is_some_and(|part| part == "super") {
            module.pop()?;
            rest = &rest[1..];
        }
        module.extend(rest.iter().cloned());
        Some(module)
    }

    fn add(&mut self, span: Span, path: &[String]) {
        if let Some(path) = self.resolve(path) {
            self.found.push((span.start().line, path));
        }
    }

    fn add_tree(&mut self, tree: &UseTree, before: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_tree(&path.tree, before);
                before.pop();
            }
            UseTree::Name(name) => {
                let mut path = before.clone();
                path.push(name.ident.to_string());
                self.add(name.ident.span(), &path);
            }
            UseTree::Rename(name) => {
                let mut path = before.clone();
                path.push(name.ident.to_string());
                self.add(name.ident.span(), &path);
            }
            UseTree::Glob(glob) => self.add(glob.star_token.span(), before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if parts.len() > 1 {
            self.add(path.span(), &parts);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }
}

/// On which floor a file stands.
fn floor_of(path: &str) -> usize {
    FLOORS
        .iter()
        .position(|floor| {
            floor.iter().any(|prefix| path == *prefix || path.starts_with(&format!("{prefix}/")))
        })
        .unwrap_or_else(|| panic!("{path} stands on no floor: say on which"))
}

#[test]
fn no_import_leads_up() {
    let files: Vec<File> = source().into_iter().filter(|file| !file.is_test()).collect();
    let by_module: HashMap<Vec<String>, &str> =
        files.iter().map(|file| (module_of(&file.path), file.path.as_str())).collect();
    let mut wrong = String::new();
    for file in files.iter().filter(|file| !GATHERERS.contains(&file.path.as_str())) {
        let mut paths = Paths { module: module_of(&file.path), found: Vec::new() };
        paths.visit_file(&parse(file));
        let floor = floor_of(&file.path);
        for (line, path) in paths.found {
            // The longest module on the path is the file that is meant.
            let target = (0..=path.len()).rev().find_map(|len| by_module.get(&path[..len]));
            let Some(target) = target.filter(|target| !GATHERERS.contains(target)) else { continue };
            if floor_of(target) > floor {
                wrong.push_str(&format!("\n  {}:{line}: crate::{}", file.path, path.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "these lead up:{wrong}");
}

/// No module of the tool imports, directly or through others, from one that imports from it.
#[test]
fn the_modules_of_the_tool_form_no_circle() {
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files(&["cli/src"]) {
        let path = file.path.trim_start_matches("cli/src/").trim_end_matches(".rs");
        // The folders of the systems are one module.
        let module: Vec<String> = match path.split_once('/') {
            Some((_, below)) => vec!["platform".to_owned(), below.to_owned()],
            None => vec![path.to_owned()],
        };
        let name = module[0].clone();
        let mut paths = Paths { module, found: Vec::new() };
        paths.visit_file(&parse(&file));
        let targets = paths.found.into_iter().filter_map(|(_, path)| path.into_iter().next());
        let targets = targets.filter(|target| *target != name);
        imports.entry(name.clone()).or_default().extend(targets);
    }
    let known: BTreeSet<String> = imports.keys().cloned().collect();
    assert!(known.contains("serve"), "the tool was not found");
    // Modules that import from none that is left can go, until none is left or only circles are.
    loop {
        let left: BTreeSet<String> = imports.keys().cloned().collect();
        imports.retain(|_, targets| targets.iter().any(|target| left.contains(target)));
        if imports.len() == left.len() {
            break;
        }
    }
    assert!(imports.is_empty(), "these import from each other in a circle: {:?}", imports.keys());
}

/// The fields that the structs of a file declare, and those of them whose type is not plain data (every field public).
#[derive(Default)]
struct Declared {
    all: BTreeSet<String>,
    guarded: BTreeSet<String>,
}

impl<'ast> Visit<'ast> for Declared {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        if let Fields::Named(fields) = &item.fields {
            let names: Vec<String> =
                fields.named.iter().filter_map(|field| Some(field.ident.as_ref()?.to_string())).collect();
            if !fields.named.iter().all(|field| matches!(field.vis, Visibility::Public(_))) {
                self.guarded.extend(names.iter().cloned());
            }
            self.all.extend(names);
        }
    }
}

/// The fields that are written: assigned, or lent to be changed; and whether they are those of `self`.
#[derive(Default)]
struct Written(Vec<(usize, String, bool)>);

impl Written {
    fn note(&mut self, mut target: &Expr) {
        // Of `a.b.c = …`, `a.b[i] = …` and `*a.b = …` the field that is written is the last one named.
        loop {
            target = match target {
                Expr::Index(index) => &index.expr,
                Expr::Unary(unary) => &unary.expr,
                Expr::Paren(paren) => &paren.expr,
                Expr::Tuple(tuple) => {
                    tuple.elems.iter().for_each(|element| self.note(element));
                    return;
                }
                _ => break,
            };
        }
        if let Expr::Field(field) = target
            && let Member::Named(name) = &field.member
        {
            let is_own = matches!(&*field.base, Expr::Path(path) if path.path.is_ident("self"));
            self.0.push((name.span().start().line, name.to_string(), is_own));
        }
    }
}

impl<'ast> Visit<'ast> for Written {
    fn visit_expr_assign(&mut self, assign: &'ast syn::ExprAssign) {
        self.note(&assign.left);
        visit::visit_expr_assign(self, assign);
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        use syn::BinOp;
        if let BinOp::AddAssign(_) | BinOp::SubAssign(_) | BinOp::BitOrAssign(_) | BinOp::BitAndAssign(_) =
            binary.op
        {
            self.note(&binary.left);
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_reference(&mut self, reference: &'ast syn::ExprReference) {
        if reference.mutability.is_some() {
            self.note(&reference.expr);
        }
        visit::visit_expr_reference(self, reference);
    }
}

/// As far as text can tell: a field that only other files declare is not written here. A type whose methods stand in several
/// files of one folder is one type: `self` may be written in all of them.
#[test]
fn a_field_is_written_only_in_the_file_that_declares_it() {
    let files: Vec<File> = source().into_iter().filter(|file| !file.is_test()).collect();
    let mut owners: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut own: HashMap<&str, BTreeSet<String>> = HashMap::new();
    for file in &files {
        let mut declared = Declared::default();
        declared.visit_file(&parse(file));
        for field in declared.guarded {
            owners.entry(field).or_default().insert(&file.path);
        }
        own.insert(&file.path, declared.all);
    }
    let mut wrong = String::new();
    for file in &files {
        let mut written = Written::default();
        written.visit_file(&parse(file));
        for (line, field, is_own) in written.0 {
            let Some(owners) = owners.get(&field) else { continue };
            let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
            if is_own && owners.iter().any(|owner| folder(owner) == folder(&file.path)) {
                continue;
            }
            if !own.get(file.path.as_str()).is_some_and(|own| own.contains(&field)) {
                wrong.push_str(&format!("\n  {}:{line}: {field}, declared in {owners:?}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "these fields are another file's:{wrong}");
}

/// Functions and how many lines they have, from the signature to the closing brace.
#[derive(Default)]
struct Functions(Vec<(usize, String, usize)>);

impl Functions {
    fn note(&mut self, sig: &syn::Signature, block: &syn::Block) {
        let (first, last) = (sig.span().start().line, block.span().end().line);
        self.0.push((first, sig.ident.to_string(), last - first + 1));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}

const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 110;

#[test]
fn a_function_fits_a_screen() {
    let mut wrong = String::new();
    for file in files(&["src", "cli/src"]).iter().filter(|file| !file.is_test()) {
        let mut functions = Functions::default();
        functions.visit_file(&parse(file));
        for (line, name, lines) in functions.0 {
            if lines > FUNCTION_LINES_MAX {
                wrong.push_str(&format!("\n  {}:{line}: {name} has {lines} lines", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "these are longer than {FUNCTION_LINES_MAX} lines:{wrong}");
}

#[test]
fn a_line_fits_its_column() {
    let mut wrong = String::new();
    for file in files(&["src", "cli/src"]) {
        for (number, line) in (1..).zip(file.text.lines()) {
            // A table of the documentation has a line for each row.
            if line.chars().count() > COLUMNS_MAX && !line.trim_start().starts_with("//! |") {
                wrong.push_str(&format!("\n  {}:{number}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "these are wider than {COLUMNS_MAX} columns:{wrong}");
}

/// The names of everything that a file makes public, beyond itself or beyond the crate.
#[derive(Default)]
struct Public(Vec<(usize, String)>);

impl Public {
    fn note(&mut self, visibility: &Visibility, name: &syn::Ident) {
        if !matches!(visibility, Visibility::Inherited) {
            self.0.push((name.span().start().line, name.to_string()));
        }
    }
}

impl<'ast> Visit<'ast> for Public {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Const(item) => self.note(&item.vis, &item.ident),
            Item::Enum(item) => self.note(&item.vis, &item.ident),
            Item::Fn(item) => self.note(&item.vis, &item.sig.ident),
            Item::Struct(item) => self.note(&item.vis, &item.ident),
            Item::Type(item) => self.note(&item.vis, &item.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.vis, &item.sig.ident);
        visit::visit_impl_item_fn(self, item);
    }
}

/// As far as text can tell: a name that stands nowhere but where it is declared has no user.
#[test]
fn what_is_public_is_used_somewhere() {
    let everything = files(&["src", "cli", "tests", "benches", "examples", "fuzz/fuzz_targets"]);
    let mut words: HashMap<&str, usize> = HashMap::new();
    for file in &everything {
        let code = file.text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        code.filter(|word| !word.is_empty()).for_each(|word| *words.entry(word).or_default() += 1);
    }
    let mut wrong = String::new();
    for file in source().iter().filter(|file| !file.is_test()) {
        let mut public = Public::default();
        public.visit_file(&parse(file));
        for (line, name) in public.0 {
            if words.get(name.as_str()).copied().unwrap_or(0) < 2 {
                wrong.push_str(&format!("\n  {}:{line}: {name}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "these have no user:{wrong}");
}

/// Assertions in the code, for each thousand lines of it.
const ASSERTIONS_MIN: usize = 4;

#[test]
fn there_are_enough_assertions() {
    let (mut lines, mut assertions) = (0, 0);
    for file in source().iter().filter(|file| !file.is_test()) {
        lines += file.code().filter(|(_, line)| !line.trim().is_empty()).count();
        assertions +=
            file.code().filter(|(_, line)| line.contains("assert!(") || line.contains("assert_eq!(")).count();
    }
    assert!(assertions * 1_000 >= ASSERTIONS_MIN * lines, "{assertions} assertions in {lines} lines");
}

#[test]
fn the_checks_of_the_syntax_see_what_they_should() {
    let file: syn::File = syn::parse_quote! {
        use crate::a::{b, c::D};
        use super::e;
        mod inner { use super::f; }
        fn long() { self.own.theirs = 1; x.list[0] += 1; (a.first, b.second) = (1, 2); g(&mut c.lent); crate::h::call(); }
        struct S { pub all: u8, hidden: u8 }
        struct Plain { pub data: u8 }
    };
    let mut paths = Paths { module: vec!["x".into(), "y".into()], found: Vec::new() };
    paths.visit_file(&file);
    let found: Vec<String> = paths.found.iter().map(|(_, path)| path.join("::")).collect();
    assert_eq!(found, ["a::b", "a::c::D", "x::e", "x::y::f", "h::call"]);
    let mut written = Written::default();
    written.visit_file(&file);
    let written: Vec<&str> = written.0.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(written, ["theirs", "list", "first", "second", "lent"]);
    let mut declared = Declared::default();
    declared.visit_file(&file);
    assert_eq!(declared.guarded.into_iter().collect::<Vec<_>>(), ["all", "hidden"]);
    assert_eq!(declared.all.into_iter().collect::<Vec<_>>(), ["all", "data", "hidden"]);
    assert_eq!((module_of("src/lib.rs").len(), module_of("src/os/mod.rs")), (0, vec!["os".to_owned()]));
}
