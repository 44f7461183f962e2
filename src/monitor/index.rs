//! `/` of the monitoring port: a page with links, for people.

use super::source::ENDPOINTS;

/// Makes the page.
#[must_use]
pub(crate) fn page(server_name: &str) -> String {
    let links: String = ENDPOINTS
        .iter()
        .filter(|path| **path != "/")
        .map(|path| format!("<li><a href=\".{path}\">{path}</a></li>\n"))
        .collect();
    let name = escape(server_name);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title></head>\n\
         <body><h1>{name}</h1>\n<ul>\n{links}</ul></body></html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
