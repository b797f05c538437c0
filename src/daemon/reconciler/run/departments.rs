//! Departments: list, fetch names, compare.

use std::collections::BTreeSet;

use super::super::api_reader::Abort;
use super::{Missing, Run};
use crate::directory::{DepartmentField, DepartmentId, Fields, UnixSeconds, comparison};
use crate::store::observations::Observation;
use crate::store::reconciles::known_departments;
use crate::wecom::api::Dated;
use crate::wecom::api::directory::{DepartmentList, Departments};
use crate::wecom::api::{ApiObserver, SecretKind};

impl<L: ApiObserver> Run<'_, L> {
    /// All departments and the time of the listing; `None` if WeCom denies it.
    pub(super) fn department_structure(&mut self) -> Result<Option<Dated<Departments>>, Abort> {
        self.progress("departments", 0, None);
        let client = self.comparison.client;
        let mut structure = self.api.read(|| client.department_ids())?;
        if structure.is_err() {
            structure = self.api.read(|| client.departments(SecretKind::Contacts))?;
        }
        match structure {
            Ok(Dated { value: DepartmentList { mut departments, nameless, skipped }, at }) => {
                let at = self.stamp(at);
                self.unreadable.departments = !nameless.is_empty();
                self.skipped("rows of departments, for which none is deleted", &nameless);
                self.skipped("values of departments", &skipped);
                self.department_names(&mut departments)?;
                Ok(Some(Dated { value: departments, at }))
            }
            Err(denial) => {
                self.note_denial("departments are not compared", &denial);
                Ok(None)
            }
        }
    }

    /// Adds the names that a configured secret may see.
    fn department_names(&mut self, structure: &mut Departments) -> Result<(), Abort> {
        let client = self.comparison.client;
        let is_named = |fields: &Fields<DepartmentField>| fields.contains_key(&DepartmentField::Name);
        let mut refused = None;
        for secret in [SecretKind::App, SecretKind::Contacts] {
            if structure.values().all(is_named) || !client.has_secret(secret) {
                continue;
            }
            match self.api.read(|| client.departments(secret))? {
                Ok(named) => {
                    self.skipped("values of departments", &named.value.skipped);
                    for (id, fields) in named.value.departments {
                        let name = fields.get(&DepartmentField::Name);
                        if let (Some(department), Some(name)) = (structure.get_mut(&id), name) {
                            department.insert(DepartmentField::Name, name.clone());
                        }
                    }
                }
                Err(denial) => refused = Some(denial),
            }
        }
        let nameless: Vec<DepartmentId> =
            structure.iter().filter(|(_, fields)| !is_named(fields)).map(|(id, _)| *id).collect();
        // WeCom may show single departments where it denies the list.
        for (done, id) in nameless.iter().enumerate() {
            self.progress("names of departments", done, Some(nameless.len()));
            match self.api.read(|| client.department(*id, SecretKind::App))? {
                Ok(seen) => structure
                    .entry(*id)
                    .or_default()
                    .extend(seen.value.into_iter().filter(|(field, _)| *field == DepartmentField::Name)),
                Err(denial) if denial.is_for_all => {
                    refused = Some(denial);
                    break;
                }
                // The answer cannot be used. Denials with an errcode concern this department only.
                Err(denial) if denial.errcode.is_none() => refused = Some(denial),
                Err(_) => {}
            }
        }
        if let Some(denial) = refused.filter(|_| !structure.values().all(is_named)) {
            self.note_denial("names of some departments are not known", &denial);
        }
        Ok(())
    }

    pub(super) fn departments(
        &mut self,
        structure: Option<Dated<Departments>>,
        with_members: &BTreeSet<DepartmentId>,
    ) -> Result<Missing<DepartmentId>, Abort> {
        let Some(Dated { value: structure, at }) = structure else {
            return Ok(Missing::none(UnixSeconds::default()));
        };
        let known = known_departments(self.comparison.reader)?;
        let differences = comparison::departments(&structure, &known);
        for (id, fields) in differences.new {
            self.differences.departments.new.add(id);
            self.batches.add(Observation::Department(id, fields), at)?;
        }
        for (id, fields) in differences.changed {
            self.differences.departments.changed.add(id);
            self.batches.add(Observation::Department(id, fields), at)?;
        }
        let mut missing = Missing { what: Vec::new(), present: known.len(), at, is_complete: true };
        for (id, event_time) in differences.missing {
            if self.is_missing(event_time, at, &Observation::DepartmentAbsent(id))? {
                missing.what.push(id);
            }
        }
        // A complete listing has the root department and every department of a member.
        let is_incomplete = self.unreadable.departments
            || structure.is_empty()
            || with_members.iter().any(|id| !structure.contains_key(id));
        missing.is_complete = !is_incomplete;
        if is_incomplete && !missing.what.is_empty() {
            self.notes
                .push("no department is deleted, because the listing of departments is incomplete".into());
            missing.what.clear();
        }
        Ok(missing)
    }
}
