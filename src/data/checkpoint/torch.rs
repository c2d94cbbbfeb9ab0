//! What `torch.save` writes: a pickle that names tensors, and the bytes of their storages, as members of a zip or, before torch 1.6, one
//! after the other. A storage is a run of numbers; a tensor is a view of one.

use super::pickle::{self, Id, Object, Objects};
use super::stored::{Found, Stored, span};
use crate::data::elements::Element;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Cursor;
use std::ops::Range;

/// What a file from before torch 1.6 begins with: the pickle of a number.
const MAGIC: [u8; 15] = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
/// Keys under which programs that train keep the weights among other things, the wanted ones first.
const WRAPPERS: [&str; 12] = [
    "state_dict",
    "model_state_dict",
    "model_dict",
    "model",
    "net",
    "network",
    "module",
    "params",
    "state_dict_ema",
    "model_ema",
    "params_ema",
    "teacher",
];
/// Attributes of torch's modules that hold what is in them.
const INSIDE: [&str; 3] = ["_modules", "_parameters", "_buffers"];
/// Most numbers of a tensor that repeats those of a smaller storage.
const REPEATED: usize = 1 << 24;
/// Deepest nesting that is looked into.
const DEEPEST: usize = 64;

/// The tensors of a zip.
pub(super) fn read_zip(bytes: &[u8]) -> Result<Found> {
    let broken = |e: zip::result::ZipError| {
        anyhow::anyhow!("not a whole zip ({} bytes): {e}; download it again", bytes.len())
    };
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let mut members = HashMap::new();
    for i in 0..zip.len() {
        let member = zip.by_index_raw(i).map_err(broken)?;
        let name = member.name().map_err(broken)?.into_owned();
        let start = member.data_start().context("a member without a beginning")? as usize;
        let end = start.checked_add(member.size() as usize).filter(|&end| end <= bytes.len());
        let end = end.with_context(|| format!("{name} is cut short: download it again"))?;
        let stored = member.compression() == zip::CompressionMethod::Stored;
        members.insert(name, (stored, start..end));
    }
    let Some(root) = members.keys().find_map(|name| name.strip_suffix("data.pkl")).map(str::to_string) else {
        bail!("a zip without the data.pkl of torch.save");
    };
    if members.contains_key(&format!("{root}constants.pkl")) {
        bail!("a TorchScript archive, which is a program; save its state_dict()");
    }
    let member = |name: &str| -> Result<Range<usize>> {
        match members.get(&format!("{root}{name}")) {
            Some((true, range)) => Ok(range.clone()),
            Some(_) => bail!("{name} is compressed, which torch never does"),
            None => bail!("{name} is missing: not a whole file of torch; download it again"),
        }
    };
    if let Ok(order) = member("byteorder") {
        ensure!(&bytes[order] == b"little", "its numbers are big-endian, which is not supported");
    }
    let objects = pickle::read(&bytes[member("data.pkl")?])?;
    Tensors { objects: &objects, storage: |key: &str| member(&format!("data/{key}")) }.found()
}

/// The tensors of a file from before torch 1.6.
pub(super) fn read_legacy(bytes: &[u8]) -> Result<Found> {
    let Some(mut rest) = bytes.strip_prefix(&MAGIC) else {
        // A pickle, but not of torch: it has no storages.
        let objects = pickle::read(bytes)?;
        return Tensors { objects: &objects, storage: |_: &str| bail!("a pickle without storages") }.found();
    };
    let mut next = || {
        let objects = pickle::read(rest)?;
        rest = &rest[objects.length..];
        anyhow::Ok(objects)
    };
    let (version, system) = (next()?, next()?);
    ensure!(version.count(version.root) == Some(1001), "a version of torch.save that is not known");
    let items = system.items(system.root).unwrap_or_default();
    let big = items.iter().find(|(key, _)| system.text(*key) == Some("little_endian"));
    if big.is_some_and(|(_, value)| matches!(system.get(*value), Object::Bool(false))) {
        bail!("its numbers are big-endian, which is not supported");
    }
    let (objects, keys) = (next()?, next()?);
    let mut sizes = HashMap::new();
    for id in objects.ids().filter(|&id| matches!(objects.get(id), Object::Persistent(_))) {
        let storage = Storage::of(&objects, id)?;
        sizes.insert(storage.key, storage.element.map_or(1, |e| e.unit()[1]));
    }
    let (mut ranges, mut at) = (HashMap::new(), bytes.len() - rest.len());
    for &key in keys.sequence(keys.root).context("no list of its storages")? {
        let key = keys.text(key).context("a storage without a name")?;
        let size = sizes.get(key).with_context(|| format!("nothing names its storage {key}"))?;
        let end = bytes.get(at..at + 8).and_then(|count| {
            let count = usize::try_from(u64::from_le_bytes(count.try_into().ok()?)).ok()?;
            count.checked_mul(*size)?.checked_add(at + 8).filter(|&end| end <= bytes.len())
        });
        let end = end.with_context(|| format!("storage {key} is cut short: download it again"))?;
        ranges.insert(key.to_string(), at + 8..end);
        at = end;
    }
    let storage = |key: &str| ranges.get(key).cloned().with_context(|| format!("storage {key} is missing"));
    Tensors { objects: &objects, storage }.found()
}

/// A run of numbers, as a pickle names it.
struct Storage<'a> {
    key: &'a str,
    /// Nothing where the tensor says it.
    element: Option<Element>,
    /// Numbers before a view, of which only old files have some.
    offset: usize,
}

impl<'a> Storage<'a> {
    fn of(objects: &'a Objects, id: Id) -> Result<Storage<'a>> {
        let Object::Persistent(named) = objects.get(id) else { bail!("a tensor without a storage") };
        let Some(&[kind, class, key, _location, _count, ref view @ ..]) = objects.sequence(*named) else {
            bail!("a storage that is named in a way of its own");
        };
        ensure!(objects.text(kind) == Some("storage"), "a persistent object that is no storage");
        let class = objects.global(class).context("a storage without a class")?;
        let element = match class.strip_prefix("torch.").and_then(|name| name.rsplit('.').next()) {
            Some("UntypedStorage") => None,
            Some(name) => Some(element(name.strip_suffix("Storage").unwrap_or(name))?),
            None => bail!("a storage of class {class}"),
        };
        let view = view.first().and_then(|&view| objects.sequence(view));
        let offset = view.and_then(|view| objects.count(*view.get(1)?)).unwrap_or(0);
        Ok(Storage { key: objects.text(key).context("a storage without a name")?, element, offset })
    }
}

/// What torch calls the type of numbers, in storages (`Float`) and elsewhere (`float32`).
fn element(name: &str) -> Result<Element> {
    Ok(match name {
        "Float" | "float32" => Element::F32,
        "Double" | "float64" => Element::F64,
        "Half" | "float16" => Element::F16,
        "BFloat16" | "bfloat16" => Element::BF16,
        "float8_e4m3fn" => Element::F8E4M3,
        "float8_e5m2" => Element::F8E5M2,
        "Long" | "int64" => Element::I64,
        "Int" | "int32" => Element::I32,
        "Short" | "int16" => Element::I16,
        "Char" | "int8" => Element::I8,
        "Byte" | "uint8" => Element::U8,
        "Bool" | "bool" => Element::Bool,
        other => bail!("numbers of type {other} are not supported"),
    })
}

/// Objects, and where the bytes of each storage are.
struct Tensors<'a, F: Fn(&str) -> Result<Range<usize>>> {
    objects: &'a Objects,
    storage: F,
}

impl<F: Fn(&str) -> Result<Range<usize>>> Tensors<'_, F> {
    /// All tensors by the path of keys that leads to each.
    fn found(&self) -> Result<Found> {
        let mut found = Found::default();
        let root = self.unwrap(&mut found);
        let (mut left, mut seen) = (vec![(root, String::new(), 0)], HashSet::new());
        while let Some((id, path, depth)) = left.pop() {
            let name = if path.is_empty() { "tensor" } else { &path };
            if let Some(stored) = self.tensor(id).with_context(|| name.to_string())? {
                found.tensors.push((name.to_string(), stored));
            } else if depth < DEEPEST && seen.insert(id) {
                let below = self.below(id).into_iter();
                left.extend(below.map(|(key, value)| {
                    let dot = if path.is_empty() || key.is_empty() { "" } else { "." };
                    (value, format!("{path}{dot}{key}"), depth + 1)
                }));
            }
        }
        found.remarks.extend(self.inert());
        match found.tensors.is_empty() {
            true => bail!("a pickle without tensors"),
            false => Ok(found),
        }
    }

    /// The dictionary of weights among what a program that trains keeps; what stands beside it is noted.
    fn unwrap(&self, found: &mut Found) -> Id {
        let (objects, mut root) = (self.objects, self.objects.root);
        for _ in 0..DEEPEST {
            let items = objects.items(root).unwrap_or_default();
            let holds =
                |id: &Id| objects.items(*id).is_some_and(|items| !items.is_empty()) || self.has_state(*id);
            let of = |wanted: &&str| items.iter().find(|(k, v)| objects.text(*k) == Some(wanted) && holds(v));
            let Some(&(taken, inner)) = WRAPPERS.iter().find_map(of) else { break };
            let mut beside = vec![];
            for &(key, value) in items.iter().filter(|(key, _)| *key != taken) {
                let Some(key) = objects.text(key) else { continue };
                match objects.get(value) {
                    Object::Int(n) => drop(found.metadata.insert(key.into(), n.to_string())),
                    Object::Float(n) => drop(found.metadata.insert(key.into(), n.to_string())),
                    Object::Text(text) => drop(found.metadata.insert(key.into(), text.clone())),
                    _ => beside.push(key),
                }
            }
            if !beside.is_empty() {
                found.remarks.push(format!(
                    "{} is read, beside it {} is not",
                    objects.text(taken).unwrap_or_default(),
                    beside.join(", ")
                ));
            }
            root = inner;
        }
        root
    }

    fn has_state(&self, id: Id) -> bool {
        matches!(self.objects.get(id), Object::Made { state: Some(_), .. })
    }

    /// What lies in an object, by key; the attributes of modules that only hold others have an empty one.
    fn below(&self, id: Id) -> Vec<(String, Id)> {
        let objects = self.objects;
        let named = |items: &[(Id, Id)]| -> Vec<(String, Id)> {
            let key = |&(key, value): &(Id, Id)| match objects.get(key) {
                Object::Text(text) if INSIDE.contains(&text.as_str()) => Some((String::new(), value)),
                Object::Text(text) => Some((text.clone(), value)),
                Object::Int(n) => Some((n.to_string(), value)),
                _ => None,
            };
            items.iter().filter_map(key).collect()
        };
        let numbered = |list: &[Id]| -> Vec<(String, Id)> {
            list.iter().enumerate().map(|(i, &value)| (i.to_string(), value)).collect()
        };
        match objects.get(id) {
            Object::Dict(items) => named(items),
            Object::List(list) | Object::Tuple(list) => numbered(list),
            Object::Made { items, list, state, .. } => {
                let state = state.and_then(|state| objects.items(state)).unwrap_or_default();
                [named(items), numbered(list), named(state)].concat()
            }
            _ => vec![],
        }
    }

    /// The tensor that an object is, if it is one.
    fn tensor(&self, id: Id) -> Result<Option<Stored>> {
        let (mut id, objects) = (id, self.objects);
        for _ in 0..DEEPEST {
            let &Object::Made { class, args, .. } = objects.get(id) else { return Ok(None) };
            let (class, args) = (objects.global(class), objects.sequence(args).unwrap_or_default());
            match (class.unwrap_or_default(), args) {
                (
                    "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
                    [inner, ..],
                ) => {
                    id = *inner;
                }
                // A subclass of Tensor.
                ("torch._tensor._rebuild_from_type_v2", [function, _class, args, ..]) => {
                    let args = objects.sequence(*args).unwrap_or_default();
                    return self.rebuilt(objects.global(*function).unwrap_or_default(), args);
                }
                (class, args) => return self.rebuilt(class, args),
            }
        }
        bail!("a tensor in a parameter in a parameter ..")
    }

    /// What one of torch's functions would make of a storage.
    fn rebuilt(&self, function: &str, args: &[Id]) -> Result<Option<Stored>> {
        let Some(function) = function.strip_prefix("torch._utils._rebuild_") else { return Ok(None) };
        let dtype = match (function, args) {
            ("tensor" | "tensor_v2", _) => None,
            ("tensor_v3", [_, _, _, _, _, _, dtype, ..]) => Some(*dtype),
            (other, _) => bail!("its kind ({other}) is not supported: only dense tensors are"),
        };
        let &[storage, offset, shape, strides, ..] = args else { bail!("a tensor without a shape") };
        let objects = self.objects;
        let storage = Storage::of(objects, storage)?;
        let dtype = dtype.and_then(|dtype| objects.global(dtype)?.strip_prefix("torch."));
        let element = match (dtype, storage.element) {
            (Some(dtype), _) => element(dtype)?,
            (None, Some(element)) => element,
            (None, None) => bail!("a tensor without a type"),
        };
        let counts = |id: Id| -> Option<Vec<usize>> {
            // A torch.Size is made of a tuple.
            let id = match objects.get(id) {
                Object::Made { args, .. } => *objects.sequence(*args)?.first()?,
                _ => id,
            };
            objects.sequence(id)?.iter().map(|&n| objects.count(n)).collect()
        };
        let (Some(shape), Some(strides), Some(offset)) =
            (counts(shape), counts(strides), objects.count(offset))
        else {
            bail!("a tensor whose shape is not of numbers");
        };
        ensure!(shape.len() == strides.len(), "shape {shape:?} with strides {strides:?}");
        let range = (self.storage)(storage.key)?;
        let size = element.unit()[1];
        let held = range.len() / size;
        let numbers = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        let end = offset.checked_add(storage.offset).and_then(|first| {
            let end = first.checked_add(span(&shape, &strides)?)?;
            (end <= held && numbers? <= held.max(REPEATED)).then_some([first, end])
        });
        let Some([first, end]) = end else {
            bail!("shape {shape:?} is more than its storage of {held} numbers holds");
        };
        // Strides of dimensions of size 1 do not matter.
        let mut step = 1;
        let contiguous = shape.iter().zip(&strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == step;
            step *= size;
            fits
        });
        let range = range.start + first * size..range.start + end * size;
        let strides = (!contiguous && !shape.contains(&0)).then_some(strides);
        Ok(Some(Stored { element, shape, strides, range }))
    }

    /// Says which objects were left as they are, by class.
    fn inert(&self) -> Option<String> {
        const KNOWN: [&str; 5] =
            ["collections.", "torch._utils.", "torch._tensor.", "torch.Size", "torch.device"];
        let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
        for id in self.objects.ids() {
            let Object::Made { class, .. } = self.objects.get(id) else { continue };
            let class = self.objects.global(*class).unwrap_or("an unnamed class");
            if !KNOWN.iter().any(|known| class.starts_with(known)) {
                *classes.entry(class).or_default() += 1;
            }
        }
        let list: Vec<String> = classes.iter().map(|(class, n)| format!("{n} of {class}")).collect();
        (!list.is_empty()).then(|| format!("objects that were not made: {}", list.join(", ")))
    }
}
