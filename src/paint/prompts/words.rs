//! Names and the words that stand for them: whether a text names a class or a style, in any of the forms that English has for it.

/// Lower case, letters and digits only: how names are compared.
pub fn normal(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// A name as a folder's: letters, digits and `_`.
pub fn folder_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join("_")
}

/// Plurals that no rule makes: endings of a plural, and of its singular.
const IRREGULAR: [(&str, &str); 14] = [
    ("people", "person"),
    ("men", "man"),
    ("children", "child"),
    ("mice", "mouse"),
    ("lice", "louse"),
    ("geese", "goose"),
    ("feet", "foot"),
    ("teeth", "tooth"),
    ("oxen", "ox"),
    ("cacti", "cactus"),
    ("fungi", "fungus"),
    ("octopi", "octopus"),
    ("dice", "die"),
    ("oes", "o"),
];

/// Names of classes, and what else people call one; without blanks. The reverse does not hold: a man is a person.
const ALSO: [(&str, &[&str]); 34] = [
    (
        "person",
        &["man", "woman", "boy", "girl", "child", "kid", "human", "lady", "gentleman", "guy", "toddler"],
    ),
    ("human", &["person", "man", "woman", "boy", "girl", "child"]),
    ("child", &["kid", "boy", "girl", "toddler"]),
    ("tv", &["television", "tvset", "televisionset"]),
    ("television", &["tv"]),
    ("monitor", &["screen", "computerscreen"]),
    ("bike", &["bicycle"]),
    ("bicycle", &["bike"]),
    ("motorbike", &["motorcycle"]),
    ("motorcycle", &["motorbike"]),
    ("car", &["automobile"]),
    ("airplane", &["plane", "aeroplane", "aircraft", "jet"]),
    ("aeroplane", &["plane", "airplane", "aircraft", "jet"]),
    ("aircraftcarrier", &["carrier"]),
    ("couch", &["sofa"]),
    ("sofa", &["couch"]),
    ("telephone", &["phone"]),
    ("cellphone", &["mobilephone", "smartphone", "phone"]),
    ("mobilephone", &["cellphone", "smartphone", "phone"]),
    ("refrigerator", &["fridge"]),
    ("trashcan", &["trashbin", "garbagecan", "garbagebin", "wastebin", "dustbin"]),
    ("glasses", &["eyeglasses", "spectacles"]),
    ("eyeglasses", &["glasses", "spectacles"]),
    ("flipflops", &["sandal"]),
    ("sneakers", &["trainers"]),
    ("postitnotes", &["stickynotes"]),
    ("pushpin", &["thumbtack", "drawingpin"]),
    ("speaker", &["loudspeaker"]),
    ("dog", &["puppy"]),
    ("cat", &["kitten"]),
    ("rabbit", &["bunny"]),
    ("opossum", &["possum"]),
    ("seaturtle", &["turtle"]),
    ("ship", &["boat"]),
];

/// The words that one word in lower case may be a form of, itself among them.
fn singulars(word: &str) -> Vec<String> {
    let mut all = vec![word.to_string()];
    let mut stem = |ending: &str, with: &str| {
        all.extend(
            word.strip_suffix(ending).filter(|stem| stem.len() > 1).map(|stem| format!("{stem}{with}")),
        );
    };
    for (ending, with) in [("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe")] {
        stem(ending, with);
    }
    let irregular =
        IRREGULAR.iter().filter_map(|(many, one)| Some(format!("{}{one}", word.strip_suffix(many)?)));
    all.extend(irregular);
    all
}

/// Whether two words in lower case are forms of one.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (singulars(a), singulars(b));
    a.iter().any(|a| b.contains(a))
}

/// British and American spellings of what styles are made of.
fn american(word: &str) -> String {
    word.replace("colour", "color").replace("grey", "gray")
}

/// Whether `text` names `name` in full words, however these are joined ("T-shirt", "alarm clocks" for `Alarm_Clock`), as one or many
/// ("knives" for `Knife`), or by another word for it ("a man" for `person`).
pub fn mentions(text: &str, name: &str) -> bool {
    let name = american(&normal(name));
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(|w| american(&normal(w)))
        .collect();
    let also =
        ALSO.iter().filter(|(class, _)| same(class, &name)).flat_map(|(_, words)| words.iter().copied());
    let wanted: Vec<&str> = std::iter::once(name.as_str()).chain(also).filter(|w| !w.is_empty()).collect();
    let longest = wanted.iter().map(|w| w.len()).max().unwrap_or(0) + 4;
    (0..words.len()).any(|first| {
        let mut joined = String::new();
        words[first..].iter().any(|word| {
            joined += word;
            joined.len() <= longest && wanted.iter().any(|wanted| same(wanted, &joined))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_other_forms_and_nothing_else_is() {
        for (text, name, named) in [
            ("Two dogs.", "dog", true),
            ("A dogged look", "dog", false),
            ("Some alarm clocks", "Alarm_Clock", true),
            ("a t-shirt", "Tshirt", true),
            ("a pair of glass", "glass", true),
            ("many puppies", "puppy", true),
            ("a scar", "car", false),
            ("in pixel-art style", "pixel art", true),
            ("art of pixels", "pixel art", false),
            ("Two people, a man and a woman, stand", "person", true),
            ("A smiling girl", "person", true),
            ("A person", "man", false),
            ("full shelves", "Shelf", true),
            ("a sharp knife", "Knives", true),
            ("many mice", "Mouse", true),
            ("old televisions", "TV", true),
            ("a red bicycle", "Bike", true),
            ("two buses", "bus", true),
            ("a blouse", "louse", false),
            ("an old sofa", "Couch", true),
            ("a watercolour of", "watercolor", true),
            ("firemen at work", "fireman", true),
            ("the toys", "Toys", true),
            ("a toy", "Toys", true),
            ("ripe tomatoes", "tomato", true),
            ("a carpet", "car", false),
            ("an ant", "pant", false),
            ("", "dog", false),
            ("anything", "", false),
        ] {
            assert_eq!(mentions(text, name), named, "{text}, {name}");
        }
        assert_eq!(
            [folder_name("3D render"), folder_name("../ukiyo-e / prints")],
            ["3D_render", "ukiyo_e_prints"]
        );
    }
}
