//! What is served: paths and their methods. Pure.

use super::refusal::Refusal;

/// The exact paths that are served, each with its methods.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    routes: Vec<Route>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) path: String,
    methods: Vec<String>,
    /// Answered by the gate itself.
    pub(super) is_probe: bool,
}

impl Routes {
    /// No routes: everything is a 404.
    pub fn new() -> Routes {
        Routes::default()
    }

    /// Adds a path (compared byte by byte, without the query and one slash at its end) and the methods it
    /// takes.
    #[must_use]
    pub fn with(mut self, path: &str, methods: &[&str]) -> Routes {
        self.add(path, methods, false);
        self
    }

    /// Adds a path that the gate itself answers with 200, for GET and HEAD.
    #[must_use]
    pub fn with_probe(mut self, path: &str) -> Routes {
        self.add(path, &["GET", "HEAD"], true);
        self
    }

    fn add(&mut self, path: &str, methods: &[&str], is_probe: bool) {
        let methods = methods.iter().map(ToString::to_string).collect();
        self.routes.push(Route { path: without_slash(path).to_owned(), methods, is_probe });
    }

    /// The value of `Allow` for a refusal by this route.
    pub(super) fn allow(&self, route: usize) -> String {
        self.routes.get(route).map(|route| route.methods.join(", ")).unwrap_or_default()
    }

    pub(super) fn admit(&self, method: &str, path: &str) -> Result<&Route, Refusal> {
        let path = without_slash(path);
        let (index, route) =
            self.routes.iter().enumerate().find(|(_, route)| route.path == path).ok_or(Refusal::NotFound)?;
        if route.methods.iter().any(|known| known == method) {
            Ok(route)
        } else {
            Err(Refusal::MethodNotAllowed { route: index })
        }
    }
}

/// The path without one slash at its end; the root stays.
fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path)
}
