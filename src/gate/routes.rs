//! The paths that the gate forwards, with their methods.

use super::refusal::Refusal;

/// The accepted paths and methods; every other request is refused with 404 or 405.
#[derive(Debug, Clone, Default)]
pub struct Routes(Vec<Route>);

#[derive(Debug, Clone)]
pub(super) struct Route {
    /// The path that is forwarded.
    pub(super) path: String,
    /// Whether a request may append one slash to the path.
    allows_slash: bool,
    methods: Vec<String>,
    /// Whether the gate answers itself.
    pub(super) is_probe: bool,
}

impl Routes {
    /// A table without routes, which refuses every request with 404.
    pub fn new() -> Routes {
        Routes::default()
    }

    /// Adds a path, compared byte by byte and without the query, and its methods.
    #[must_use]
    pub fn with(self, path: &str, methods: &[&str]) -> Routes {
        self.add(path, false, methods, false)
    }

    /// Like [`Routes::with`], but ignores one slash at the end of either path.
    #[must_use]
    pub fn with_callback(self, path: &str, methods: &[&str]) -> Routes {
        self.add(without_slash(path), true, methods, false)
    }

    /// Adds a path on which the gate itself answers GET and HEAD with 200, for load balancers.
    #[must_use]
    pub fn with_probe(self, path: &str) -> Routes {
        self.add(without_slash(path), true, &["GET", "HEAD"], true)
    }

    fn add(mut self, path: &str, allows_slash: bool, methods: &[&str], is_probe: bool) -> Routes {
        let methods = methods.iter().map(ToString::to_string).collect();
        self.0.push(Route { path: path.to_owned(), allows_slash, methods, is_probe });
        self
    }

    /// Value of the `Allow` header for the route with this index.
    pub(super) fn allow(&self, route: usize) -> String {
        self.0.get(route).map(|route| route.methods.join(", ")).unwrap_or_default()
    }

    /// Selects the route of a request, or refuses it with `NotFound` or `MethodNotAllowed`.
    pub(super) fn select(&self, method: &str, path: &str) -> Result<&Route, Refusal> {
        let matches =
            |route: &Route| route.path == path || (route.allows_slash && route.path == without_slash(path));
        let found = self.0.iter().enumerate().find(|(_, route)| matches(route));
        let (index, route) = found.ok_or(Refusal::NotFound)?;
        let allowed = route.methods.iter().any(|known| known == method);
        if allowed { Ok(route) } else { Err(Refusal::MethodNotAllowed { route: index }) }
    }
}

/// Removes one slash from the end of a path, but not from the root.
pub(crate) fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path)
}
