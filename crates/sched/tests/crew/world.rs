//! A model of everything around a crew: processes, the template, the client. It carries the crew's
//! actions out, refuses those that break a rule, and knows which events may happen next.

use bireme_sched::crew::{Action, BirthFailure, Cause, Crew, CrewConfig, Event, Phase, Shortage};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    None,
    Asked,
    Child,
    Alive,
    Leaving,
    Gone,
    UnderRepair,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Template {
    Up,
    Lost,
    Coming,
}

/// What the workers were asked to do at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Leave,
    Die,
}

/// Which events the world may produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Everything that can happen.
    Any,
    /// Only what brings the crew forward, as long as nobody was told to go.
    Friendly,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) crew: Crew,
    pub(crate) processes: Vec<Process>,
    pub(crate) broken: bool,
    pub(crate) finished: bool,
    config: CrewConfig,
    template: Template,
    /// What the process in each row was told; one that is born later knows nothing of it.
    told: Vec<Told>,
    ending: bool,
    now_ns: u64,
}

impl World {
    pub(crate) fn new(config: CrewConfig) -> Self {
        Self {
            crew: Crew::new(config),
            processes: vec![Process::None; config.rows as usize],
            broken: false,
            finished: false,
            config,
            template: Template::Up,
            told: vec![Told::Nothing; config.rows as usize],
            ending: false,
            now_ns: 0,
        }
    }

    /// Lets an event happen and carries out what the crew makes of it.
    pub(crate) fn send(&mut self, event: Event) {
        self.happen(event);
        for action in self.crew.handle(event) {
            assert!(!self.finished, "{action:?} after the end");
            self.carry_out(action);
        }
        self.crew.sanity_check();
        assert!(
            !self.processes.contains(&Process::Gone),
            "a dead worker's row was not repaired"
        );
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Born { row } => {
                self.processes[row as usize] = Process::Child;
                self.told[row as usize] = Told::Nothing;
            }
            Event::Ready { row } => self.processes[row as usize] = Process::Alive,
            Event::Retiring { row } => self.processes[row as usize] = Process::Leaving,
            Event::BirthFailed { row, reason } => {
                let untouched = self.processes[row as usize] == Process::Asked
                    && matches!(reason, BirthFailure::Resource | BirthFailure::Refused);
                self.processes[row as usize] = if untouched {
                    Process::None
                } else {
                    Process::Gone
                };
            }
            Event::Died { row, .. } => self.processes[row as usize] = Process::Gone,
            Event::Repaired { row } => self.processes[row as usize] = Process::None,
            Event::TemplateLost => {
                self.template = Template::Lost;
                for process in &mut self.processes {
                    if *process == Process::Asked {
                        *process = Process::Gone;
                    }
                }
            }
            Event::TemplateBorn => self.template = Template::Up,
            Event::Tick { now_ns } => self.now_ns = now_ns,
            Event::Start | Event::Close | Event::Drained | Event::Terminate => {}
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Spawn { row } => {
                assert!(!self.ending, "a birth at the end");
                assert_eq!(self.template, Template::Up, "nobody is there to fork");
                assert_eq!(
                    self.processes[row as usize],
                    Process::None,
                    "the row is taken"
                );
                self.processes[row as usize] = Process::Asked;
                let at_work = |process: &&Process| {
                    matches!(process, Process::Asked | Process::Child | Process::Alive)
                };
                assert!(
                    self.processes.iter().filter(at_work).count() <= self.config.workers as usize
                );
            }
            Action::Repair { row } => {
                assert_eq!(
                    self.processes[row as usize],
                    Process::Gone,
                    "repair of a living worker's row"
                );
                self.processes[row as usize] = Process::UnderRepair;
            }
            Action::StartTemplate => {
                assert_eq!(self.template, Template::Lost, "one template is enough");
                self.template = Template::Coming;
            }
            Action::AskAllToLeave => self.tell(Told::Leave),
            Action::KillAll => self.tell(Told::Die),
            Action::Break(_) => {
                assert!(!self.broken, "broken twice");
                self.broken = true;
                self.ending = true;
            }
            Action::Starve(Shortage::KilledIdle) => {
                assert!(!self.ending && self.crew.next_due_ns().is_some());
            }
            Action::Starve(_) => {
                let gone = [Process::None, Process::UnderRepair];
                let nobody_left = self.processes.iter().all(|process| gone.contains(process));
                assert!(
                    nobody_left && !self.ending,
                    "a shortage gave up tasks too soon"
                );
                assert!(self.crew.starves() && self.crew.next_due_ns().is_some());
            }
            Action::Finished => {
                assert!(
                    self.processes
                        .iter()
                        .all(|&process| process == Process::None),
                    "somebody is left"
                );
                self.finished = true;
            }
            Action::WakeAll => {}
        }
    }

    fn tell(&mut self, told: Told) {
        self.ending = true;
        for (row, process) in self.processes.iter().enumerate() {
            if matches!(process, Process::Child | Process::Alive | Process::Leaving) {
                self.told[row] = self.told[row].max(told);
            }
        }
    }

    /// The events that may happen next.
    pub(crate) fn possible(&self, mood: Mood) -> Vec<Event> {
        let any = mood == Mood::Any;
        let mut events = Vec::new();
        let killed = Cause::Signalled(9);
        let failed = |row, reason| Event::BirthFailed { row, reason };
        for ((row, &process), &told) in (0..).zip(&self.processes).zip(&self.told) {
            match process {
                Process::Asked => {
                    events.push(Event::Born { row });
                    if any {
                        events.push(failed(row, BirthFailure::Resource));
                    }
                }
                Process::Child if any => events.extend([
                    Event::Ready { row },
                    Event::Died {
                        row,
                        cause: Cause::Exited(1),
                    },
                    failed(row, BirthFailure::Crashed),
                    failed(row, BirthFailure::Resource),
                    failed(row, BirthFailure::Killed),
                    Event::Retiring { row },
                ]),
                Process::Child => events.push(Event::Ready { row }),
                Process::Alive if any => {
                    events.extend([Event::Retiring { row }, Event::Died { row, cause: killed }]);
                    for cause in [Cause::Unserved, Cause::Killed] {
                        events.push(Event::Died { row, cause });
                    }
                }
                Process::Alive if told == Told::Leave => events.push(Event::Retiring { row }),
                Process::None | Process::Gone | Process::Alive => {}
                Process::Leaving => events.push(Event::Died {
                    row,
                    cause: Cause::Retired,
                }),
                Process::UnderRepair => events.push(Event::Repaired { row }),
            }
            if told == Told::Die && matches!(process, Process::Child | Process::Alive) {
                events.push(Event::Died { row, cause: killed });
            }
        }
        match self.template {
            Template::Up if any => events.push(Event::TemplateLost),
            Template::Coming if any => events.extend([Event::TemplateBorn, Event::TemplateLost]),
            Template::Coming => events.push(Event::TemplateBorn),
            Template::Up | Template::Lost => {}
        }
        events.extend(self.crew.next_due_ns().map(|due_ns| Event::Tick {
            now_ns: due_ns.max(self.now_ns),
        }));
        if any && self.crew.phase() == Phase::Serving {
            events.push(Event::Close);
        }
        events
    }

    /// Lets one of the possible events happen, chosen by `pick`. Returns whether there was one.
    pub(crate) fn step(&mut self, mood: Mood, pick: usize) -> bool {
        let events = self.possible(mood);
        let Some(&event) = events.get(pick % events.len().max(1)) else {
            return false;
        };
        self.send(event);
        true
    }

    /// Lets something happen, in one of three cases anything at all.
    pub(crate) fn wander(&mut self, picks: &[usize]) {
        for &pick in picks {
            let mood = if pick % 3 == 0 {
                Mood::Any
            } else {
                Mood::Friendly
            };
            self.step(mood, pick / 3);
        }
    }

    /// Lets only good things happen until nothing is left to happen.
    pub(crate) fn settle(&mut self, picks: &[usize]) {
        let bound = 100 * self.processes.len();
        let quiet = picks
            .iter()
            .cycle()
            .take(bound)
            .any(|&pick| !self.step(Mood::Friendly, pick));
        assert!(quiet, "the crew never comes to rest: {self:?}");
    }
}
