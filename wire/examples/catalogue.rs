//! Drafts the catalogue's lines for what an installed package knows and the catalogue does not:
//! `cargo run -p jetway-wire --example catalogue`. A person decides; the drafts are the strictest.

#[path = "../tests/schema/mod.rs"]
mod schema;

use jetway_wire::catalogue;

fn main() -> std::io::Result<()> {
    let file = schema::file();
    let text = std::fs::read_to_string(&file)?;
    let (mut methods, mut params) = (Vec::new(), Vec::new());
    for method in schema::read(&text) {
        let name = &method.name;
        let (ids, others): (Vec<_>, Vec<_>) = method
            .places
            .iter()
            .map(|p| schema::spell(p))
            .partition(|p| p.to_lowercase().contains("sessionid"));
        let known = catalogue::lookup(name);
        if known.is_none() {
            let scope = if name.starts_with("session.") { "session" } else { "home" };
            let ids = if ids.is_empty() { "-".to_owned() } else { ids.join(",") };
            methods.push(format!(
                "# {}\n{name}  {scope}  operator  operator  NEW  -  as-is  {ids}",
                method.description
            ));
        }
        let listed = |path: &[schema::Step]| known.is_some_and(|known| known.lists(&schema::borrow(path)));
        let new = method.places.iter().filter(|p| !listed(p)).map(|p| schema::spell(p));
        let new = new.filter(|p| known.is_some() || others.contains(p));
        params.extend(new.map(|p| format!("{name}  {p}  no")));
    }
    println!("# {}: {} new methods, {} new params", file.display(), methods.len(), params.len());
    for line in methods.iter().chain(&params) {
        println!("{line}");
    }
    Ok(())
}
