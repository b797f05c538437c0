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
    /// Whether a slash at the end of the requested path makes no difference.
    allows_slash: bool,
    methods: Vec<String>,
    /// Answered by the gate itself.
    pub(super) is_probe: bool,
}

impl Routes {
    /// No routes: everything is a 404.
    pub fn new() -> Routes {
        Routes::default()
    }

    /// Adds a path (compared byte by byte, without the query) and the methods it takes.
    #[must_use]
    pub fn with(self, path: &str, methods: &[&str]) -> Routes {
        self.add(Route {
            path: path.to_owned(),
            allows_slash: false,
            methods: methods.iter().map(ToString::to_string).collect(),
            is_probe: false,
        })
    }

    /// As [`Routes::with`], but one slash at the end of either path makes no difference.
    #[must_use]
    pub fn with_callback(self, path: &str, methods: &[&str]) -> Routes {
        self.add(Route {
            path: without_slash(path).to_owned(),
            allows_slash: true,
            methods: methods.iter().map(ToString::to_string).collect(),
            is_probe: false,
        })
    }

    /// Adds a path, as [`Routes::with_callback`], that the gate itself answers with 200, for GET and HEAD.
    #[must_use]
    pub fn with_probe(self, path: &str) -> Routes {
        self.add(Route {
            path: without_slash(path).to_owned(),
            allows_slash: true,
            methods: vec!["GET".to_owned(), "HEAD".to_owned()],
            is_probe: true,
        })
    }

    fn add(mut self, route: Route) -> Routes {
        self.routes.push(route);
        self
    }

    /// The value of `Allow` for a refusal by this route.
    pub(super) fn allow(&self, route: usize) -> String {
        self.routes.get(route).map(|route| route.methods.join(", ")).unwrap_or_default()
    }

    pub(super) fn admit(&self, method: &str, path: &str) -> Result<&Route, Refusal> {
        let is_meant =
            |route: &Route| route.path == path || (route.allows_slash && route.path == without_slash(path));
        let found = self.routes.iter().enumerate().find(|(_, route)| is_meant(route));
        let (index, route) = found.ok_or(Refusal::NotFound)?;
        if route.methods.iter().any(|known| known == method) {
            Ok(route)
        } else {
            Err(Refusal::MethodNotAllowed { route: index })
        }
    }
}

/// The path without one slash at its end; the root stays.
pub(crate) fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path)
}
