use super::*;
use crate::domxml::document::{at, child};
use proptest::prelude::*;

/// What `change` makes of `text`, whose root is `<domain>`.
fn edited(text: &str, change: impl for<'t, 'a> Fn(&mut Edits<'t, 'a>, Node<'t, 'a>)) -> String {
    let document = Document::open(text, "domain").unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut edits = Edits::new(&document);
    change(&mut edits, document.root());
    edits.apply()
}

#[test]
fn an_attribute_keeps_its_quotes_and_its_neighbours() {
    let text = "<domain><vcpu  placement = \"static\"\n current=\"1\" >4</vcpu></domain>";
    let set = edited(text, |edits, root| edits.set_attribute(child(root, "vcpu").unwrap(), "current", 2));
    assert_eq!(set, "<domain><vcpu  placement = \"static\"\n current=\"2\" >4</vcpu></domain>");
    let added =
        edited(text, |edits, root| edits.set_attribute(child(root, "vcpu").unwrap(), "cpuset", "a\"b"));
    assert!(added.contains(" current=\"1\" cpuset=\"a&quot;b\" >"), "{added}");
}

#[test]
fn an_attribute_is_added_before_the_end_of_a_closed_tag() {
    let set = |text: &str| {
        edited(text, |edits, root| edits.set_attribute(child(root, "cell").unwrap(), "cpus", "0"))
    };
    assert_eq!(set("<domain><cell/></domain>"), "<domain><cell cpus='0'/></domain>");
    assert_eq!(set("<domain><cell /></domain>"), "<domain><cell cpus='0' /></domain>");
    assert_eq!(set("<domain><cell id='1'/></domain>"), "<domain><cell id='1' cpus='0'/></domain>");
    assert_eq!(set("<domain><cell xmlns:a='b'/></domain>"), "<domain><cell xmlns:a='b' cpus='0'/></domain>");
}

#[test]
fn an_attribute_of_a_namespace_is_not_taken_for_the_plain_one() {
    let text = "<domain xmlns:a='u'><cell a:cpus='9' cpus='0'/></domain>";
    let set = edited(text, |edits, root| edits.set_attribute(child(root, "cell").unwrap(), "cpus", "0-1"));
    assert_eq!(set, "<domain xmlns:a='u'><cell a:cpus='9' cpus='0-1'/></domain>");
}

#[test]
fn a_text_keeps_the_space_and_the_remarks_around_it() {
    let set = |text: &str| edited(text, |edits, root| edits.set_text(child(root, "m").unwrap(), "<8>"));
    assert_eq!(set("<domain><m> 1 </m></domain>"), "<domain><m> &lt;8&gt; </m></domain>");
    assert_eq!(
        set("<domain><m><!--a-->\n1<!--b--></m></domain>"),
        "<domain><m><!--a-->\n&lt;8&gt;<!--b--></m></domain>"
    );
    assert_eq!(set("<domain><m>1<!--a-->2</m></domain>"), "<domain><m>&lt;8&gt;<!--a--></m></domain>");
    assert_eq!(set("<domain><m><![CDATA[1]]></m></domain>"), "<domain><m>&lt;8&gt;</m></domain>");
    assert_eq!(set("<domain><m>&#49;0<![CDATA[1]]></m></domain>"), "<domain><m>&lt;8&gt;</m></domain>");
    assert_eq!(set("<domain><m /></domain>"), "<domain><m>&lt;8&gt;</m></domain>");
    assert_eq!(set("<domain><m></m></domain>"), "<domain><m>&lt;8&gt;</m></domain>");
}

#[test]
fn what_is_already_so_is_not_touched() {
    let text = "<domain><m a='&#49;'> &#49; </m></domain>";
    let same = edited(text, |edits, root| {
        edits.set_text(child(root, "m").unwrap(), 1);
        edits.set_attribute(child(root, "m").unwrap(), "a", 1);
    });
    assert_eq!(same, text);
}

#[test]
fn a_new_element_stands_on_a_line_like_its_neighbour() {
    let text = "<domain>\r\n\t<memory>1</memory> <!-- one --> <!-- MiB -->\r\n\t<os/>\r\n</domain>\r\n";
    let before = edited(text, |edits, root| {
        edits.insert_before(child(root, "memory").unwrap(), &Fragment::text("maxMemory", 2));
    });
    assert!(
        before.starts_with("<domain>\r\n\t<maxMemory>2</maxMemory>\r\n\t<memory>1</memory> <!-- one -->")
    );
    let after = edited(text, |edits, root| {
        let list = Fragment::holding("vcpus", vec![Fragment::empty("vcpu")]);
        edits.insert_after(child(root, "memory").unwrap(), &list);
    });
    assert_eq!(
        after,
        "<domain>\r\n\t<memory>1</memory> <!-- one --> <!-- MiB -->\r\n\t<vcpus>\r\n\t\t<vcpu/>\r\n\t</vcpus>\r\n\t<os/>\
         \r\n</domain>\r\n"
    );
}

#[test]
fn a_remark_on_the_next_line_belongs_to_what_follows() {
    let text = "<domain>\n  <a/>\n  <!-- about b -->\n  <b/>\n</domain>";
    let after =
        edited(text, |edits, root| edits.insert_after(child(root, "a").unwrap(), &Fragment::empty("new")));
    assert_eq!(after, "<domain>\n  <a/>\n  <new/>\n  <!-- about b -->\n  <b/>\n</domain>");
}

#[test]
fn children_are_added_to_any_shape_of_parent() {
    let add = |text: &str| {
        edited(text, |edits, root| {
            let parent = child(root, "p").unwrap();
            edits.append(parent, Fragment::empty("x"));
            edits.append(parent, Fragment::empty("y"));
        })
    };
    for (before, after) in [
        ("<domain><p/></domain>", "<domain><p><x/><y/></p></domain>"),
        ("<domain><p a='1' /></domain>", "<domain><p a='1'><x/><y/></p></domain>"),
        ("<domain><p></p></domain>", "<domain><p><x/><y/></p></domain>"),
        ("<domain>\n <p/>\n</domain>", "<domain>\n <p>\n  <x/>\n  <y/>\n </p>\n</domain>"),
        ("<domain>\n <p></p>\n</domain>", "<domain>\n <p>\n  <x/>\n  <y/>\n </p>\n</domain>"),
        ("<domain>\n <p>\n </p>\n</domain>", "<domain>\n <p>\n  <x/>\n  <y/>\n </p>\n</domain>"),
        ("<domain>\n <p><a/></p>\n</domain>", "<domain>\n <p><a/><x/><y/></p>\n</domain>"),
        (
            "<domain>\n <p>\n    <a/>\n    <!-- z -->\n </p>\n</domain>",
            "<domain>\n <p>\n    <a/>\n    <!-- z -->\n    <x/>\n    <y/>\n </p>\n</domain>",
        ),
        (
            "<domain>\n <p>\n  <!-- z -->\n </p>\n</domain>",
            "<domain>\n <p>\n  <!-- z -->\n  <x/>\n  <y/>\n </p>\n</domain>",
        ),
        ("<domain>\n <o/> <p/>\n</domain>", "<domain>\n <o/> <p><x/><y/></p>\n</domain>"),
    ] {
        assert_eq!(add(before), after, "{before}");
    }
}

#[test]
fn edits_of_one_element_do_not_meet() {
    let text = "<domain>\n  <cpu/>\n</domain>";
    let done = edited(text, |edits, root| {
        let cpu = child(root, "cpu").unwrap();
        edits.append(cpu, Fragment::empty("numa"));
        edits.set_attribute(cpu, "mode", "x");
        edits.set_attribute(cpu, "check", "y");
        edits.append(root, Fragment::empty("devices"));
    });
    assert_eq!(done, "<domain>\n  <cpu mode='x' check='y'>\n    <numa/>\n  </cpu>\n  <devices/>\n</domain>");
}

/// XML with everything that a description may have around the places that are edited.
fn xml() -> impl Strategy<Value = String> {
    let space = prop::sample::select(vec!["", " ", "\n", "\n  ", "\r\n\t", "\n\n    "]);
    let junk = prop::sample::select(vec![
        "",
        "<!-- <a> & ' \" -->",
        "<?pi x='1'?>",
        "<x:foreign xmlns:x='u' a='1'>t &amp; <b/></x:foreign>",
        "<other/>",
        "text é &#x41;",
    ]);
    let target = prop::sample::select(vec![
        "<t/>",
        "<t />",
        "<t></t>",
        "<t>1</t>",
        "<t a='1'> 1 </t>",
        "<t b=\"2\" a = \"1\"><!--c-->1<k/></t>",
        "<t\n  c='>' a=''\n/>",
        "<t>\n  <k/>\n</t>",
    ]);
    let head = prop::sample::select(vec!["", "\u{feff}", "<?xml version='1.0'?>\n", "<!-- first -->"]);
    (
        head,
        prop::collection::vec((space.clone(), junk), 0..4),
        space.clone(),
        target,
        prop::collection::vec((space, junk_after()), 0..4),
    )
        .prop_map(|(head, before, space, target, after)| {
            let join =
                |parts: Vec<(&str, &str)>| parts.iter().map(|(s, j)| format!("{s}{j}")).collect::<String>();
            format!(
                "{head}<domain type='kvm'>{}{space}{target}{}</domain>\n<!-- end -->",
                join(before),
                join(after)
            )
        })
}

fn junk_after() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "<!-- on the line -->", "<other a='1'/>", "tail"])
}

/// `long` is `short` with pieces put in, and nothing taken out.
fn is_inserted_into(short: &str, long: &str) -> bool {
    let mut rest = long.chars();
    short.chars().all(|wanted| rest.any(|c| c == wanted))
}

proptest! {
    #[test]
    fn insertions_leave_every_byte_in_its_order(text in xml(), what in 0..3u8) {
        let done = edited(&text, |edits, root| {
            let target = child(root, "t").unwrap();
            match what {
                0 => edits.insert_before(target, &Fragment::text("new", 7)),
                1 => edits.insert_after(target, &Fragment::text("new", 7)),
                _ => edits.append(root, Fragment::text("new", 7)),
            }
        });
        prop_assert!(is_inserted_into(&text, &done), "{text}\n{done}");
        let document = Document::open(&done, "domain").expect("still XML");
        prop_assert_eq!(at(document.root(), &["new"]).map(content), Some("7".to_owned()));
        prop_assert_eq!(done.replace("<new>7</new>", "").split_whitespace().collect::<String>(),
            text.split_whitespace().collect::<String>());
    }

    #[test]
    fn what_is_set_reads_back_and_the_rest_is_as_it_was(text in xml(), value in "[ -~é]{0,6}") {
        let done = edited(&text, |edits, root| {
            let target = child(root, "t").unwrap();
            edits.set_attribute(target, "a", &value);
            edits.append(target, Fragment::empty("new"));
        });
        let document = Document::open(&done, "domain").expect("still XML");
        let target = child(document.root(), "t").expect("the same element");
        prop_assert_eq!(attribute(target, "a"), Some(value));
        prop_assert!(child(target, "new").is_some());
        let place = text.find("<t").expect("it is there");
        prop_assert!(done.starts_with(&text[..place]), "{text}\n{done}");
        let end = text.rfind("</t>").map(|e| e + 4).or_else(|| Some(place + text[place..].find("/>")? + 2)).expect("an end");
        prop_assert!(done.ends_with(&text[end..]), "{text}\n{done}");
    }
}
