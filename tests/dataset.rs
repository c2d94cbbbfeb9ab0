//! Data sets on disk: DomainBed's order and splits, and the errors of a broken tree.

use kaleid::data::dataset::{Dataset, load, seed_hash, split};
use std::path::Path;

#[test]
fn seeds_and_splits_equal_domainbeds() {
    let hashes = |trial| [0, 1, 2, 3].map(|env| seed_hash(&format!("({trial}, {env})")));
    assert_eq!(hashes(0), [894182419, 1514274641, 1325548499, 1796103049]);
    assert_eq!(hashes(1), [785910682, 1442673865, 1981683110, 1739848239]);
    assert_eq!(hashes(2), [472130416, 181139023, 248334461, 1709828778]);
    assert_eq!(seed_hash("('PACS', 'ERM', [0], 0, 0)"), 94828300);

    let starts = [
        (2048, 409, [548, 677, 1997, 977, 1553, 1123, 1936, 1520, 1084, 565]),
        (2344, 468, [1488, 562, 461, 570, 2092, 1124, 1898, 1260, 672, 1697]),
        (1670, 334, [1441, 1432, 282, 669, 637, 829, 1137, 1146, 1546, 457]),
        (3929, 785, [2743, 2083, 2744, 3449, 1159, 1137, 3817, 1555, 1114, 3206]),
    ];
    for (env, (n, held, start)) in starts.into_iter().enumerate() {
        let (out, rest) = split(n, 0.2, 0, env);
        assert_eq!((out.len(), rest.len()), (held, n - held));
        assert_eq!(out[..10], start);
    }
    let office_home = [(2427, 485), (4365, 873), (4439, 887), (4357, 871)];
    let vlcs = [(1415, 283), (2656, 531), (3282, 656), (3376, 675)];
    for (n, held) in office_home.into_iter().chain(vlcs) {
        let (out, rest) = split(n, 0.2, 0, 0);
        assert_eq!((out.len(), rest.len()), (held, n - held));
    }
}

fn touch(root: &Path, file: &str) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "no image").unwrap();
}

fn error<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    let text = format!("{:#}", result.unwrap_err());
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn order_is_torchvisions() {
    let dir = tempfile::tempdir().unwrap();
    for file in
        ["photo/Dog/b.PNG", "photo/Dog/a.jpg", "photo/Dog/sub/0.webp", "photo/cat/z.bmp", "photo/Dog/x.txt"]
    {
        touch(dir.path(), file);
    }
    touch(dir.path(), "art/Dog/1.png");
    touch(dir.path(), "art/cat/2.png");
    let set = Dataset::open(dir.path()).unwrap();
    assert_eq!(set.classes, ["Dog", "cat"]);
    let names = |env: usize| -> Vec<String> {
        let items = set.domains[env].items.iter();
        items.map(|i| i.path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!((set.domains[0].name.as_str(), names(0)), ("art", vec!["1.png".into(), "2.png".into()]));
    assert_eq!(names(1), ["a.jpg", "b.PNG", "0.webp", "z.bmp"]);
    assert_eq!(set.env("photo").unwrap(), 1);
    assert_eq!(error(set.env("sketch")), "no domain sketch: there are art, photo");
    let unreadable = error(load(&set.domains[1].items, || ()));
    assert!(unreadable.contains("a.jpg: not a readable image"), "{unreadable}");
}

#[test]
fn broken_trees_are_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    assert!(error(Dataset::open(dir.path().join("gone"))).contains("gone: cannot list the folder"));
    assert!(error(Dataset::open(dir.path())).contains("no domain folders"));
    touch(dir.path(), "art/cat/1.png");
    touch(dir.path(), "photo/cat/1.png");
    std::fs::create_dir(dir.path().join("photo/dog")).unwrap();
    assert!(
        error(Dataset::open(dir.path()))
            .contains("photo: its classes differ from those of art: it also has dog")
    );
    std::fs::create_dir(dir.path().join("art/dog")).unwrap();
    assert!(error(Dataset::open(dir.path())).contains("art/dog: no images in this class folder"));
    let classes = ["cat".to_string()];
    assert!(
        error(Dataset::added(dir.path(), &classes, &Default::default()))
            .contains("dog: the data set has no class dog")
    );
}
