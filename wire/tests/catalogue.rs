//! The catalogue knows every method of the installed package, and what in its params matters.

mod schema;

use jetway_wire::catalogue;

#[test]
fn the_catalogue_knows_what_the_installed_package_knows() {
    let file = schema::file();
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| {
        panic!(
            "{}: {e}. `make test` installs the package that publishes it; JETWAY_API_SCHEMA names another file",
            file.display()
        )
    });
    let (mut wrong, mut places, methods) = (Vec::new(), 0, schema::read(&text));
    for method in &methods {
        let Some(known) = catalogue::lookup(&method.name) else {
            wrong.push(format!("{}: not in the catalogue ({})", method.name, method.description));
            continue;
        };
        for place in &method.places {
            if !known.lists(&schema::borrow(place)) {
                wrong.push(format!("{}: `{}` is not in the catalogue", method.name, schema::spell(place)));
            }
        }
        places += method.places.len();
    }
    println!("{}: {} methods, {places} places of interest", file.display(), methods.len());
    assert!(
        wrong.is_empty(),
        "{} of the package's methods changed; `cargo run -p jetway-wire --example catalogue` drafts lines:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(methods.len() > 300, "that is no schema of the CLI's");
}

#[test]
fn a_new_method_or_param_is_noticed() {
    let text = r##"{"server":{"x":{"rpcMethod":"nope.new","params":{}}},
        "session":{"send":{"rpcMethod":"session.send","params":{"properties":{
            "sessionId":{"type":"string"},"otherSessionId":{"type":"string"},"baseUrl":{"type":"string"},
            "hasToken":{"type":"boolean"},"pathMode":{"type":"string","enum":["a"]},
            "list":{"items":{"$ref":"#/definitions/D"}}}}}},
        "definitions":{"D":{"properties":{"command":{"type":"string"},"again":{"$ref":"#/definitions/D"}}}}}"##;
    let methods = schema::read(text);
    assert_eq!(methods[0].name, "nope.new");
    assert!(catalogue::lookup("nope.new").is_none());
    let send = catalogue::lookup("session.send").unwrap();
    let unknown: Vec<_> = methods[1].places.iter().filter(|p| !send.lists(&schema::borrow(p))).collect();
    let unknown: Vec<_> = unknown.into_iter().map(|p| schema::spell(p)).collect();
    assert_eq!(unknown, ["baseUrl", "list[].command", "otherSessionId"]);
}
