//! `readwright demo`: a real primary and replicas on this machine, brought up by the controller's own planner, with the
//! proxy in front of them.

pub(crate) mod mysqld;
