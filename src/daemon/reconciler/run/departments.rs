//! Departments: listing them, learning their names, comparing.

use std::collections::BTreeSet;

use super::super::api_reader::End;
use super::{Missing, Run};
use crate::directory::{DepartmentField, DepartmentId, Fields, UnixSeconds, comparison};
use crate::store::observations::Observation;
use crate::store::reconciles::known_departments;
use crate::wecom::api::Dated;
use crate::wecom::api::directory::{DepartmentList, Departments};
use crate::wecom::api::{ApiObserver, SecretKind};

impl<L: ApiObserver> Run<'_, L> {
    /// All departments, and the time of the listing; `None` if WeCom does not show them.
    pub(super) fn department_structure(&mut self) -> Result<Option<Dated<Departments>>, End> {
        self.tell("departments", 0, None);
        let client = self.engine.client;
        let mut structure = self.ask.about(|| client.department_ids())?;
        if structure.is_err() {
            structure = self.ask.about(|| client.departments(SecretKind::Contacts))?;
        }
        match structure {
            Ok(Dated { value: DepartmentList { mut departments, nameless, skipped }, at }) => {
                let at = self.stamp(at);
                self.odd_rows.departments = !nameless.is_empty();
                self.skipped("rows of departments, for which none is deleted", &nameless);
                self.skipped("values of departments", &skipped);
                self.department_names(&mut departments)?;
                Ok(Some(Dated { value: departments, at }))
            }
            Err(refusal) => {
                self.partly("departments are not compared", &refusal);
                Ok(None)
            }
        }
    }

    /// Adds the names that a configured secret may see.
    fn department_names(&mut self, structure: &mut Departments) -> Result<(), End> {
        let client = self.engine.client;
        let is_named = |fields: &Fields<DepartmentField>| fields.contains_key(&DepartmentField::Name);
        let mut refused = None;
        for secret in [SecretKind::App, SecretKind::Contacts] {
            if structure.values().all(is_named) || !client.has_secret(secret) {
                continue;
            }
            match self.ask.about(|| client.departments(secret))? {
                Ok(named) => {
                    self.skipped("values of departments", &named.value.skipped);
                    for (id, fields) in named.value.departments {
                        let name = fields.get(&DepartmentField::Name);
                        if let (Some(department), Some(name)) = (structure.get_mut(&id), name) {
                            department.insert(DepartmentField::Name, name.clone());
                        }
                    }
                }
                Err(refusal) => refused = Some(refusal),
            }
        }
        let nameless: Vec<DepartmentId> =
            structure.iter().filter(|(_, fields)| !is_named(fields)).map(|(id, _)| *id).collect();
        // Where no list is to be had, one by one may be.
        for (done, id) in nameless.iter().enumerate() {
            self.tell("names of departments", done, Some(nameless.len()));
            match self.ask.about(|| client.department(*id, SecretKind::App))? {
                Ok(seen) => structure
                    .entry(*id)
                    .or_default()
                    .extend(seen.value.into_iter().filter(|(field, _)| *field == DepartmentField::Name)),
                Err(refusal) if refusal.is_for_all => {
                    refused = Some(refusal);
                    break;
                }
                // What came back cannot be used; a refusal concerns this department alone.
                Err(refusal) if refusal.errcode.is_none() => refused = Some(refusal),
                Err(_) => {}
            }
        }
        if let Some(refusal) = refused.filter(|_| !structure.values().all(is_named)) {
            self.partly("names of some departments are not known", &refusal);
        }
        Ok(())
    }

    pub(super) fn departments(
        &mut self,
        structure: Option<Dated<Departments>>,
        with_members: &BTreeSet<DepartmentId>,
    ) -> Result<Missing<DepartmentId>, End> {
        let Some(Dated { value: structure, at }) = structure else {
            return Ok(Missing::none(UnixSeconds::default()));
        };
        let known = known_departments(self.engine.reader)?;
        let differences = comparison::departments(&structure, &known);
        for (id, fields) in differences.new {
            self.plan.departments.new.add(id);
            self.repairs.add(Observation::Department(id, fields), at)?;
        }
        for (id, fields) in differences.changed {
            self.plan.departments.changed.add(id);
            self.repairs.add(Observation::Department(id, fields), at)?;
        }
        let mut missing = Missing { what: Vec::new(), present: known.len(), at, is_complete: true };
        for (id, event_time) in differences.missing {
            if self.is_missing(event_time, at, &Observation::DepartmentAbsent(id))? {
                missing.what.push(id);
            }
        }
        // The company itself is always one; and members are only in departments that there are.
        let is_incomplete = self.odd_rows.departments
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
