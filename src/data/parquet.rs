//! Image data sets of the hub, which are tables in parquet files: as folders of images, ROOT/DOMAIN/CLASS/image, and from images.

use super::text;
use super::write_atomic;
use anyhow::{Context, Result, anyhow, bail, ensure};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::record::{Field, Row};
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Columns that say which class an image is of.
const LABELS: [&str; 4] = ["label", "class", "category", "label_name"];
/// Columns that say which domain it is from.
const DOMAINS: [&str; 3] = ["domain", "style", "domain_label"];

/// An image with what is known of it.
pub struct Pictured {
    /// Its file.
    pub bytes: Vec<u8>,
    /// What the file is called.
    pub path: String,
    /// Number of its class, if it has one.
    pub class: Option<usize>,
    /// Its domain, if it has one.
    pub domain: Option<String>,
    /// What it was painted from, if it was.
    pub prompt: Option<String>,
    /// All else, as JSON.
    pub metadata: String,
}

/// Writes images as one table, with columns that `datasets` takes for images and for classes of these names.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(file: &Path, images: &[Pictured], classes: &[&str]) -> Result<()> {
    // All may be absent, or `datasets` takes the image for something else.
    let schema = parse_message_type(
        "message images { optional group image { optional binary bytes; optional binary path (UTF8); }
         optional int64 label; optional binary domain (UTF8); optional binary prompt (UTF8); optional binary metadata (UTF8); }",
    )?;
    let text = json!({"dtype": "string", "_type": "Value"});
    let features = json!({"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}, "domain": text,
        "prompt": text, "metadata": text});
    let said = json!({"info": {"features": features}}).to_string();
    let pairs = vec![KeyValue { key: "huggingface".into(), value: Some(said) }];
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_key_value_metadata(Some(pairs));
    let mut writer = SerializedFileWriter::new(vec![], schema.into(), properties.build().into())?;
    let mut group = writer.next_row_group()?;
    let column = |get: fn(&Pictured) -> Option<&[u8]>| images.iter().map(get).collect::<Vec<_>>();
    texts(&mut group, 2, &column(|image| Some(&image.bytes)))?;
    texts(&mut group, 2, &column(|image| Some(image.path.as_bytes())))?;
    let numbers: Vec<i64> = images.iter().filter_map(|image| image.class.map(|class| class as i64)).collect();
    let there: Vec<i16> = images.iter().map(|image| i16::from(image.class.is_some())).collect();
    let mut labels = group.next_column()?.context("a column of labels")?;
    labels.typed::<Int64Type>().write_batch(&numbers, Some(&there), None)?;
    labels.close()?;
    texts(&mut group, 1, &column(|image| image.domain.as_deref().map(str::as_bytes)))?;
    texts(&mut group, 1, &column(|image| image.prompt.as_deref().map(str::as_bytes)))?;
    texts(&mut group, 1, &column(|image| Some(image.metadata.as_bytes())))?;
    group.close()?;
    write_atomic(file, &writer.into_inner()?)
}

/// Writes the next column, of texts or bytes, in groups of so many levels.
fn texts(group: &mut SerializedRowGroupWriter<Vec<u8>>, levels: i16, all: &[Option<&[u8]>]) -> Result<()> {
    let values: Vec<ByteArray> = all.iter().flatten().map(|bytes| bytes.to_vec().into()).collect();
    let there: Vec<i16> = all.iter().map(|value| levels * i16::from(value.is_some())).collect();
    let mut column = group.next_column()?.context("a column of texts")?;
    column.typed::<ByteArrayType>().write_batch(&values, Some(&there), None)?;
    Ok(column.close()?)
}

/// Writes the images of `files` below `root`, which must not be there yet; how many. Images keep their bytes.
///
/// # Errors
/// Tables that are broken or have other columns, a folder that is there, a full disk, Ctrl-C by way of `each`.
pub fn unpack(files: &[PathBuf], root: &Path, mut each: impl FnMut() -> Result<()>) -> Result<usize> {
    ensure!(!root.exists(), "{}: is there already: choose another folder", root.display());
    // Beside its place first, so that a data set that is there is whole.
    let temp = PathBuf::from(format!("{}.tmp", root.display()));
    let _ = std::fs::remove_dir_all(&temp);
    let mut count = 0;
    for file in files {
        let place = file.display();
        let opened = File::open(file).with_context(|| format!("{place}: cannot open"))?;
        let table = SerializedFileReader::new(opened)
            .map_err(|e| anyhow!("{place}: not a whole parquet file: {e}"))?;
        let names = class_names(&table).with_context(|| place.to_string())?;
        for row in table.get_row_iter(None).map_err(|e| anyhow!("{place}: {e}"))? {
            let row = row.map_err(|e| anyhow!("{place}: {e}"))?;
            let Image { bytes, domain, class } =
                image(&row, &names).with_context(|| format!("{place}, row {count}"))?;
            let path =
                temp.join(folder(&domain)).join(folder(&class)).join(format!("{count:06}.{}", ending(bytes)));
            write_atomic(path, bytes)?;
            count += 1;
            each()?;
        }
    }
    ensure!(count > 0, "no images in {} files", files.len());
    std::fs::rename(&temp, root).with_context(|| format!("{}: cannot write", root.display()))?;
    Ok(count)
}

/// The classes' names by column, which `datasets` keeps beside the table.
fn class_names(table: &SerializedFileReader<File>) -> Result<BTreeMap<String, Vec<String>>> {
    let metadata = table.metadata().file_metadata().key_value_metadata();
    let said = metadata.and_then(|all| all.iter().find(|pair| pair.key == "huggingface")?.value.clone());
    let Some(said) = said else { return Ok(BTreeMap::new()) };
    let said: Value = text::json(&said).map_err(|e| anyhow!("what `datasets` says of it is no JSON: {e}"))?;
    let Some(features) = said["info"]["features"].as_object() else { return Ok(BTreeMap::new()) };
    let names = |(column, feature): (&String, &Value)| {
        let names = feature["names"].as_array()?.iter().map(|name| Some(name.as_str()?.to_string()));
        Some((column.clone(), names.collect::<Option<_>>()?))
    };
    Ok(features.iter().filter_map(names).collect())
}

struct Image<'r> {
    bytes: &'r [u8],
    domain: String,
    class: String,
}

/// A row's image, its domain and class.
fn image<'r>(row: &'r Row, names: &BTreeMap<String, Vec<String>>) -> Result<Image<'r>> {
    let columns: Vec<(&String, &Field)> = row.get_column_iter().collect();
    let list = || columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let word = |wanted: &[&str]| -> Result<String> {
        let found = wanted.iter().find_map(|name| columns.iter().find(|(column, _)| column == name));
        let (column, field) =
            found.with_context(|| format!("no column {} among {}", wanted.join(" or "), list()))?;
        let number = match field {
            Field::Str(text) => return Ok(text.clone()),
            Field::Long(n) => usize::try_from(*n).ok(),
            Field::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let number = number.with_context(|| format!("{column} is neither a text nor a number"))?;
        match names.get(*column) {
            Some(names) => {
                names.get(number).cloned().with_context(|| format!("{column} {number} has no name"))
            }
            None => Ok(number.to_string()),
        }
    };
    let bytes = columns.iter().find_map(|(_, field)| match field {
        Field::Group(inside) => inside.get_column_iter().find_map(|(name, field)| match field {
            Field::Bytes(bytes) if name == "bytes" => Some(bytes.data()),
            _ => None,
        }),
        _ => None,
    });
    let Some(bytes) = bytes else { bail!("no images among its columns {}", list()) };
    Ok(Image { bytes, domain: word(&DOMAINS)?, class: word(&LABELS)? })
}

/// A name as that of a folder.
fn folder(name: &str) -> String {
    let fits = |c: char| if c == '/' || c == '\\' || c == ':' || c.is_control() { '_' } else { c };
    let name: String = name.trim().chars().map(fits).collect();
    if name.is_empty() || name.starts_with('.') { format!("_{name}") } else { name }
}

/// The ending for an image, by how it begins.
fn ending(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xd8, ..] => "jpg",
        [0x89, b'P', b'N', b'G', ..] => "png",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        _ => "img",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::Dataset;

    #[test]
    fn a_table_of_images_becomes_a_data_set() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("small");
        let file = PathBuf::from("tests/data/parquet/small.parquet");
        assert_eq!(unpack(std::slice::from_ref(&file), &root, || Ok(())).unwrap(), 6);
        let dataset = Dataset::open(&root).unwrap();
        assert_eq!(dataset.classes, ["dog", "gui_tar"]);
        assert_eq!(dataset.domains.len(), 2);
        assert!(
            root.join("art_painting/dog/000000.jpg").exists()
                && root.join("photo/gui_tar/000005.png").exists()
        );
        assert!(!dir.path().join("small.tmp").exists());
        let error = |file: &Path, root: &Path| {
            format!("{:#}", unpack(&[file.to_path_buf()], root, || Ok(())).expect_err("an error"))
        };
        assert!(error(&file, &root).contains("is there already"));
        let cut = dir.path().join("cut.parquet");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        assert!(error(&cut, &dir.path().join("b")).contains("cut.parquet: not a whole parquet file"));
    }
}
