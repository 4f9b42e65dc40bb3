use chancery_shared::number::Epoch;
use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_millis(600);
const DRAIN: Duration = Duration::from_millis(400);

fn at(millis: u64) -> Monotonic {
    Monotonic(Duration::from_millis(millis))
}

fn fence(epoch: u64) -> Fence {
    Fence { epoch: Epoch(epoch), lease: format!("lease-{epoch}") }
}

fn machine() -> Machine {
    Machine::new(Timing::new(TTL, DRAIN), at(0))
}

/// A machine that leads since 0, with the deadline at 540.
fn leader() -> Machine {
    let mut machine = machine();
    assert_eq!(machine.handle(at(0), Event::Woken, 0.5), [Action::Campaign(Call(1))]);
    let won = Event::Answered(Call(1), Answer::Won(fence(1)));
    assert_eq!(machine.handle(at(20), won, 0.5), [Action::Lead(fence(1), at(540))]);
    machine
}

fn answered(machine: &mut Machine, now: u64, call: u64, answer: Answer) -> Vec<Action> {
    machine.handle(at(now), Event::Answered(Call(call), answer), 0.5)
}

fn woken(machine: &mut Machine, now: u64) -> Vec<Action> {
    machine.handle(at(now), Event::Woken, 0.5)
}

fn failed() -> Answer {
    Answer::Failed("no route".to_owned())
}

#[test]
fn the_margin_is_a_tenth_but_felt_with_short_leases() {
    let margin = |millis| Timing::new(Duration::from_millis(millis), DRAIN).margin;
    assert_eq!(margin(15_000), Duration::from_millis(1500));
    assert_eq!(margin(100), Duration::from_millis(50));
    assert_eq!(margin(60), Duration::from_millis(30));
}

#[test]
fn the_lease_is_kept_alive_every_third_of_the_ttl_from_sending() {
    let mut machine = leader();
    assert_eq!(machine.wake_at(), Some(at(200)), "counted from 0, when the campaign was sent");
    assert_eq!(woken(&mut machine, 199), []);
    assert_eq!(woken(&mut machine, 200), [Action::KeepAlive(Call(2), fence(1))]);
    assert_eq!(answered(&mut machine, 250, 2, Answer::Done), [Action::Extend(at(740))]);
    assert_eq!(machine.wake_at(), Some(at(400)));
    assert_eq!(woken(&mut machine, 400), [Action::KeepAlive(Call(3), fence(1))]);
}

#[test]
fn a_slow_keep_alive_is_followed_by_another_and_either_counts() {
    let mut machine = leader();
    woken(&mut machine, 200);
    assert_eq!(machine.wake_at(), Some(at(300)));
    let actions = woken(&mut machine, 300);
    assert!(matches!(actions[0], Action::Trouble(Attempt::KeepAlive, _)), "{actions:?}");
    assert_eq!(actions[1], Action::KeepAlive(Call(3), fence(1)));
    // The older one counts from when it was sent.
    assert_eq!(answered(&mut machine, 350, 2, Answer::Done), [Action::Extend(at(740))]);
    assert_eq!(answered(&mut machine, 360, 3, Answer::Done), [Action::Extend(at(840))]);
    assert_eq!(machine.wake_at(), Some(at(500)));
}

#[test]
fn a_term_is_given_up_before_the_store_can_give_the_lease_away() {
    let mut machine = leader();
    for (millis, call) in [(200, 2), (300, 3), (400, 4), (500, 5)] {
        let sent = Some(Action::KeepAlive(Call(call), fence(1)));
        assert_eq!(woken(&mut machine, millis).last(), sent.as_ref());
    }
    assert_eq!(machine.wake_at(), Some(at(540)));
    let actions = woken(&mut machine, 540);
    let forgotten: Vec<_> = (2..=5).map(|call| Action::Forget(Call(call))).collect();
    assert_eq!(actions[..4], forgotten);
    assert_eq!(actions[4..], [Action::StepDown(Reason::Unconfirmed)]);
}

#[test]
fn a_stopped_process_steps_down_with_its_first_event_whatever_that_is() {
    let late = 3_600_000;
    for event in [
        Event::Woken,
        Event::Answered(Call(2), Answer::Done),
        Event::Answered(Call(9), Answer::Won(fence(9))),
        Event::Vacant,
        Event::Drained,
        Event::Shutdown,
    ] {
        let mut machine = leader();
        woken(&mut machine, 200);
        let actions = machine.handle(at(late), event.clone(), 0.5);
        let step_down = Action::StepDown(Reason::Unconfirmed);
        assert_eq!(actions.iter().position(|action| *action == step_down), Some(1), "{event:?}");
        let extends = |action: &Action| matches!(action, Action::Extend(_) | Action::Lead(..));
        assert!(!actions.iter().any(extends), "{event:?}: {actions:?}");
    }
}

#[test]
fn the_late_answer_of_an_older_keep_alive_does_not_extend() {
    let mut machine = leader();
    woken(&mut machine, 200);
    woken(&mut machine, 300);
    let actions = answered(&mut machine, 310, 3, Answer::Done);
    assert_eq!(actions, [Action::Forget(Call(2)), Action::Extend(at(840))]);
    assert_eq!(answered(&mut machine, 320, 2, Answer::Done), [], "a newer one has counted");
    assert_eq!(answered(&mut machine, 330, 3, Answer::Done), [], "an answer counts once");
    assert_eq!(machine.wake_at(), Some(at(500)));
    for millis in [500, 600, 700, 800] {
        woken(&mut machine, millis);
    }
    let late = answered(&mut machine, 840, 4, Answer::Done);
    assert_eq!(late.last(), Some(&Action::StepDown(Reason::Unconfirmed)), "{late:?}");
}

#[test]
fn a_failed_keep_alive_is_tried_again_in_time() {
    let mut machine = leader();
    woken(&mut machine, 200);
    let mut now = 205;
    let mut tries = 0;
    for call in 2.. {
        let actions = answered(&mut machine, now, call, failed());
        assert!(matches!(actions[..], [Action::Trouble(Attempt::KeepAlive, _)]), "{actions:?}");
        tries += 1;
        now = u64::try_from(machine.wake_at().unwrap().0.as_millis()).unwrap() + 1;
        if matches!(woken(&mut machine, now)[..], [Action::StepDown(_)]) {
            break;
        }
    }
    assert!(tries > 5, "{tries} tries before the deadline");
}

#[test]
fn a_fenced_keep_alive_ends_the_term_at_once() {
    let mut machine = leader();
    woken(&mut machine, 200);
    let actions = answered(&mut machine, 210, 2, Answer::Fenced);
    assert_eq!(actions, [Action::StepDown(Reason::Fenced)]);
    assert!(machine.wake_at().unwrap() <= at(210).after(POLL), "it campaigns again soon");
}

#[test]
fn no_claim_without_a_win() {
    for answer in [failed(), Answer::Lost, Answer::Done, Answer::Fenced] {
        let mut machine = machine();
        woken(&mut machine, 0);
        let actions = answered(&mut machine, 10, 1, answer);
        assert!(!actions.iter().any(|action| matches!(action, Action::Lead(..))), "{actions:?}");
    }
}

#[test]
fn a_lease_that_was_won_too_late_is_given_back() {
    let mut machine = machine();
    woken(&mut machine, 0);
    let actions = answered(&mut machine, 545, 1, Answer::Won(fence(1)));
    assert_eq!(actions[0], Action::Resign(Call(2), fence(1)));
    assert!(!actions.iter().any(|action| matches!(action, Action::Lead(..))), "{actions:?}");

    // The same for one that the machine has stopped to wait for.
    let mut machine = tests::machine();
    woken(&mut machine, 0);
    assert_eq!(woken(&mut machine, 600)[0], Action::Forget(Call(1)));
    let actions = answered(&mut machine, 601, 1, Answer::Won(fence(1)));
    assert_eq!(actions, [Action::Resign(Call(2), fence(1))]);
}

#[test]
fn waits_grow_after_failures_and_are_jittered() {
    let mut machine = machine();
    let mut now = at(0);
    let mut waits = Vec::new();
    for call in 1..=8 {
        assert_eq!(machine.handle(now, Event::Woken, 1.0), [Action::Campaign(Call(call))]);
        machine.handle(now, Event::Answered(Call(call), failed()), 1.0);
        let wake = machine.wake_at().unwrap();
        waits.push(wake.since(now).as_millis());
        now = wake;
    }
    assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
    assert_eq!(jittered(POLL, 0.0), POLL / 2);
    assert_eq!(jittered(POLL, 1.0), POLL);
}

#[test]
fn a_vacancy_is_taken_up_at_once() {
    let mut machine = machine();
    woken(&mut machine, 0);
    assert_eq!(answered(&mut machine, 10, 1, Answer::Lost), []);
    let actions = machine.handle(at(11), Event::Vacant, 0.5);
    assert_eq!(actions, [Action::Campaign(Call(2))]);
    assert_eq!(machine.handle(at(12), Event::Vacant, 0.5), [], "one campaign at a time");
    // But the campaign may have come to the store before the vacancy.
    assert_eq!(answered(&mut machine, 13, 2, Answer::Lost), [Action::Campaign(Call(3))]);
    assert_eq!(answered(&mut machine, 14, 3, Answer::Lost), [], "one vacancy, one more try");
}

#[test]
fn on_shutdown_the_lease_lives_until_all_is_brought_to_an_end() {
    let mut machine = leader();
    let actions = machine.handle(at(100), Event::Shutdown, 0.5);
    assert_eq!(actions, [Action::StepDown(Reason::Shutdown)]);
    assert_eq!(woken(&mut machine, 200), [Action::KeepAlive(Call(2), fence(1))]);
    answered(&mut machine, 210, 2, Answer::Done);
    let actions = machine.handle(at(300), Event::Drained, 0.5);
    assert_eq!(actions, [Action::Resign(Call(3), fence(1))]);
    assert_eq!(answered(&mut machine, 310, 3, Answer::Done), [Action::Stop]);
    assert_eq!(machine.wake_at(), None);
    assert_eq!(woken(&mut machine, 10_000), []);
}

#[test]
fn draining_has_an_end() {
    let mut machine = leader();
    machine.handle(at(100), Event::Shutdown, 0.5);
    woken(&mut machine, 200);
    answered(&mut machine, 210, 2, Answer::Done);
    woken(&mut machine, 400);
    assert_eq!(
        woken(&mut machine, 500),
        [Action::Forget(Call(3)), Action::Resign(Call(4), fence(1))],
        "not kept alive any more"
    );
    // And so has the goodbye to a store that does not answer.
    let actions = woken(&mut machine, 1100);
    assert_eq!(actions[0], Action::Forget(Call(4)));
    assert_eq!(actions[2], Action::Stop);
}

#[test]
fn a_shutdown_waits_for_a_campaign_and_gives_back_what_it_wins() {
    let start = || {
        let mut machine = machine();
        woken(&mut machine, 0);
        assert_eq!(machine.handle(at(10), Event::Shutdown, 0.5), []);
        machine
    };
    let mut machine = start();
    let actions = answered(&mut machine, 20, 1, Answer::Won(fence(1)));
    assert_eq!(actions, [Action::Resign(Call(2), fence(1))]);
    assert_eq!(answered(&mut machine, 30, 2, Answer::Done), [Action::Stop]);
    assert_eq!(answered(&mut start(), 20, 1, Answer::Lost), [Action::Stop]);
    assert_eq!(answered(&mut start(), 20, 1, failed()).last(), Some(&Action::Stop));
    assert_eq!(woken(&mut start(), 600).last(), Some(&Action::Stop));
}

#[test]
fn one_who_waits_stops_at_once() {
    let mut machine = machine();
    woken(&mut machine, 0);
    answered(&mut machine, 10, 1, Answer::Lost);
    assert_eq!(machine.handle(at(20), Event::Shutdown, 0.5), [Action::Stop]);
    assert_eq!(machine.handle(at(30), Event::Shutdown, 0.5), []);
}

#[test]
fn one_who_hands_over_lives_on_and_leaves_leadership_to_others() {
    let mut machine = leader();
    let actions = machine.handle(at(100), Event::Transfer, 0.5);
    assert_eq!(actions, [Action::StepDown(Reason::Transfer)]);
    // What has begun ends under the lease.
    assert_eq!(woken(&mut machine, 200), [Action::KeepAlive(Call(2), fence(1))]);
    answered(&mut machine, 210, 2, Answer::Done);
    let actions = machine.handle(at(220), Event::Drained, 0.5);
    assert_eq!(actions, [Action::Resign(Call(3), fence(1))]);
    assert_eq!(answered(&mut machine, 230, 3, Answer::Done), []);
    // Its own resignation is no invitation.
    assert_eq!(machine.handle(at(231), Event::Vacant, 0.5), []);
    assert_eq!(woken(&mut machine, 1000), []);
    let aside = at(230).after(TTL + 2 * POLL);
    assert_eq!(machine.wake_at(), Some(aside), "nobody came, so it comes back");
    assert_eq!(machine.handle(aside, Event::Woken, 0.5), [Action::Campaign(Call(4))]);
}

#[test]
fn a_successor_ends_the_wait_of_the_one_before() {
    for resigned in [Answer::Done, failed()] {
        let mut machine = leader();
        machine.handle(at(100), Event::Transfer, 0.5);
        machine.handle(at(110), Event::Drained, 0.5);
        answered(&mut machine, 120, 2, resigned);
        assert_eq!(machine.handle(at(130), Event::Led, 0.5), []);
        let vacant = machine.handle(at(140), Event::Vacant, 0.5);
        assert_eq!(vacant, [Action::Campaign(Call(3))], "the successor is gone already");
    }
}

#[test]
fn a_shutdown_in_the_middle_of_a_transfer_ends_both() {
    let mut machine = leader();
    machine.handle(at(100), Event::Transfer, 0.5);
    assert_eq!(machine.handle(at(110), Event::Shutdown, 0.5), []);
    assert_eq!(machine.handle(at(115), Event::Transfer, 0.5), [], "there is no second one");
    let actions = machine.handle(at(120), Event::Drained, 0.5);
    assert_eq!(actions, [Action::Resign(Call(2), fence(1))]);
    assert_eq!(answered(&mut machine, 130, 2, Answer::Done), [Action::Stop]);

    let mut machine = leader();
    machine.handle(at(100), Event::Transfer, 0.5);
    machine.handle(at(120), Event::Drained, 0.5);
    answered(&mut machine, 130, 2, Answer::Done);
    assert_eq!(machine.handle(at(140), Event::Shutdown, 0.5), [Action::Stop]);
}

#[test]
fn whoever_does_not_lead_hands_nothing_over() {
    let mut machine = machine();
    woken(&mut machine, 0);
    assert_eq!(machine.handle(at(5), Event::Transfer, 0.5), []);
    answered(&mut machine, 10, 1, Answer::Lost);
    assert_eq!(machine.handle(at(20), Event::Transfer, 0.5), []);
    assert!(machine.wake_at().unwrap() <= at(10).after(POLL), "it goes on as before");
}

#[test]
fn a_nomination_holds_the_others_back_for_a_bounded_time() {
    let mut machine = machine();
    woken(&mut machine, 0);
    answered(&mut machine, 10, 1, Answer::Lost);
    let hold = Duration::from_secs(3);
    machine.handle(at(20), Event::Nominated(hold), 0.5);
    assert_eq!(machine.handle(at(100), Event::Vacant, 0.5), []);
    assert_eq!(woken(&mut machine, 3019), []);
    assert_eq!(woken(&mut machine, 3020), [Action::Campaign(Call(2))], "the nominee never came");
}

#[test]
fn a_nomination_that_comes_during_a_campaign_counts_after_it() {
    let mut machine = machine();
    woken(&mut machine, 0);
    machine.handle(at(5), Event::Nominated(TTL), 0.5);
    machine.handle(at(6), Event::Vacant, 0.5);
    assert_eq!(answered(&mut machine, 10, 1, Answer::Lost), []);
    assert_eq!(machine.wake_at(), Some(at(605)));
}

/// Lets the lease of a new leader lapse. Returns when that is noticed.
fn lapse(machine: &mut Machine) -> u64 {
    let millis = |at: Monotonic| u64::try_from(at.0.as_millis()).unwrap();
    let began = machine.wake_at().unwrap();
    let actions = machine.handle(began, Event::Woken, 0.5);
    let [Action::Campaign(call)] = actions[..] else { panic!("{actions:?}") };
    machine.handle(began, Event::Answered(call, Answer::Won(fence(call.0))), 0.5);
    let end = millis(began) + 540;
    let actions = woken(machine, end);
    assert_eq!(actions.last(), Some(&Action::StepDown(Reason::Unconfirmed)), "{actions:?}");
    end
}

#[test]
fn one_whose_leases_lapse_stands_aside_for_longer_each_time() {
    let mut machine = machine();
    let mut waits = Vec::new();
    for _ in 0..6 {
        let end = lapse(&mut machine);
        waits.push(machine.wake_at().unwrap().since(at(end)).as_millis());
    }
    // The first is the poll that is due anyhow.
    assert_eq!(waits, [375, 600, 1200, 2400, 2400, 2400]);
}

#[test]
fn one_whose_lease_lapsed_lets_the_others_go_first() {
    let mut machine = machine();
    let end = lapse(&mut machine);
    // It does not stand in the way once somebody leads ...
    machine.handle(at(end + 50), Event::Led, 0.5);
    let wake = machine.wake_at().unwrap();
    assert_eq!(wake, at(end + 50).after(jittered(POLL, 0.5)));
    // ... and does not race when leadership is free again.
    assert_eq!(machine.handle(at(end + 60), Event::Vacant, 0.5), []);
    assert_eq!(machine.wake_at(), Some(at(end + 60).after(POLL)));
}

#[test]
fn a_term_that_lasts_makes_good_for_those_that_did_not() {
    let mut machine = machine();
    lapse(&mut machine);
    let mut now = machine.wake_at().unwrap();
    let mut actions = machine.handle(now, Event::Woken, 0.5);
    let until = now.after(7 * TTL);
    while now < until {
        match actions.pop() {
            Some(Action::Campaign(call)) => {
                machine.handle(now, Event::Answered(call, Answer::Won(fence(9))), 0.5);
            }
            Some(Action::KeepAlive(call, _)) => {
                machine.handle(now, Event::Answered(call, Answer::Done), 0.5);
            }
            other => panic!("{other:?}"),
        }
        now = machine.wake_at().unwrap();
        actions = machine.handle(now, Event::Woken, 0.5);
    }
    assert_eq!(machine.lapses, 0);
}

/// Several machines, one store that counts leases as the contract says, and between them a
/// network that delays, reorders and loses, and processes that stand still.
struct World {
    now: u64,
    dice: u64,
    nodes: Vec<Node>,
    epoch: u64,
    holder: Option<(usize, Fence, u64)>,
    /// Calls on their way to the store.
    calls: Vec<Sent>,
    /// Answers on their way back.
    answers: Vec<(u64, usize, Event)>,
    faults: Faults,
}

#[derive(Clone, Copy, Debug)]
struct Faults {
    /// Longest delay of a call, and of an answer.
    delay: u64,
    /// Calls lost, and answers lost, of 100.
    lost: u64,
    /// Steps, of 1000, at which a node begins to stand still.
    stall: u64,
    /// Steps, of 1000, at which the leader is told to hand over, to another or to anybody.
    transfer: u64,
}

struct Node {
    machine: Machine,
    /// The term that it tells others, as long as it has not stepped down.
    claim: Option<(Fence, Monotonic)>,
    frozen_until: u64,
    stopped: bool,
}

struct Sent {
    arrives: u64,
    node: usize,
    what: Action,
}

impl World {
    fn new(seed: u64, nodes: usize, faults: Faults) -> Self {
        let node = || Node { machine: machine(), claim: None, frozen_until: 0, stopped: false };
        Self {
            now: 0,
            dice: seed,
            nodes: (0..nodes).map(|_| node()).collect(),
            epoch: 0,
            holder: None,
            calls: Vec::new(),
            answers: Vec::new(),
            faults,
        }
    }

    /// A number below `bound`, by `SplitMix64`.
    fn random(&mut self, bound: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn step(&mut self) {
        self.now += 5;
        let now = self.now;
        let (arrived, on_their_way) =
            mem::take(&mut self.calls).into_iter().partition(|call| call.arrives <= now);
        self.calls = on_their_way;
        for call in arrived {
            self.serve(call);
        }
        if self.random(1000) < self.faults.transfer {
            self.transfer();
        }
        for node in 0..self.nodes.len() {
            if self.random(1000) < self.faults.stall {
                self.nodes[node].frozen_until = now + self.random(1500);
            }
            if self.nodes[node].frozen_until > now {
                continue;
            }
            // Which of the things that wait comes first after a stall is chance.
            let is_mine = |(arrives, to, _): &(u64, usize, Event)| *arrives <= now && *to == node;
            let (mine, others): (Vec<_>, Vec<_>) =
                mem::take(&mut self.answers).into_iter().partition(is_mine);
            self.answers = others;
            let mut events: Vec<Event> = mine.into_iter().map(|(.., event)| event).collect();
            if self.nodes[node].machine.wake_at().is_some_and(|wake| wake <= at(now)) {
                let place = usize::try_from(self.random(events.len() as u64 + 1)).unwrap();
                events.insert(place, Event::Woken);
            }
            for event in events {
                self.tell(node, event);
            }
        }
    }

    /// Tells everybody to transfer, and some of the nodes of a nomination, at some time or other.
    fn transfer(&mut self) {
        for node in 0..self.nodes.len() {
            let (now, hold) = (self.now, self.random(3000));
            if self.random(2) == 0 {
                let event = Event::Nominated(Duration::from_millis(hold));
                let arrives = now + self.random(self.faults.delay + 1);
                self.answers.push((arrives, node, event));
            }
            self.answers.push((now, node, Event::Transfer));
            let drained = now + self.random(1000);
            self.answers.push((drained, node, Event::Drained));
        }
    }

    fn tell(&mut self, node: usize, event: Event) {
        let dice = f64::from(u32::try_from(self.random(1000)).unwrap()) / 1000.0;
        let actions = self.nodes[node].machine.handle(at(self.now), event, dice);
        for action in actions {
            let this = &mut self.nodes[node];
            match action {
                Action::Lead(fence, until) => this.claim = Some((fence, until)),
                Action::Extend(until) => {
                    if let Some(claim) = &mut this.claim {
                        claim.1 = until;
                    }
                }
                Action::StepDown(_) => this.claim = None,
                Action::Stop => this.stopped = true,
                Action::Forget(_) | Action::Trouble(..) => {}
                what @ (Action::Campaign(_) | Action::KeepAlive(..) | Action::Resign(..)) => {
                    if self.random(100) >= self.faults.lost {
                        let arrives = self.now + self.random(self.faults.delay + 1);
                        self.calls.push(Sent { arrives, node, what });
                    }
                }
            }
        }
    }

    fn serve(&mut self, Sent { node, what, .. }: Sent) {
        let ttl = u64::try_from(TTL.as_millis()).unwrap();
        let now = self.now;
        let holds = |holder: &Option<(usize, Fence, u64)>, fence: &Fence| {
            holder.as_ref().is_some_and(|(_, held, expires)| held == fence && now < *expires)
        };
        let (call, answer) = match what {
            Action::Campaign(call) => {
                let free = self.holder.as_ref().is_none_or(|(.., expires)| *expires <= now);
                if free {
                    self.epoch += 1;
                    self.holder = Some((node, fence(self.epoch), now + ttl));
                    for other in (0..self.nodes.len()).filter(|other| *other != node) {
                        let arrives = now + self.random(self.faults.delay + 1);
                        self.answers.push((arrives, other, Event::Led));
                    }
                    (call, Answer::Won(fence(self.epoch)))
                } else {
                    (call, Answer::Lost)
                }
            }
            Action::KeepAlive(call, fence) if holds(&self.holder, &fence) => {
                self.holder = Some((node, fence, now + ttl));
                (call, Answer::Done)
            }
            Action::KeepAlive(call, _) => (call, Answer::Fenced),
            Action::Resign(call, fence) => {
                if holds(&self.holder, &fence) {
                    self.holder = None;
                    for other in 0..self.nodes.len() {
                        self.answers.push((now, other, Event::Vacant));
                    }
                }
                (call, Answer::Done)
            }
            other => panic!("no call: {other:?}"),
        };
        let lost = self.random(100) < self.faults.lost;
        let answer = if lost { failed() } else { answer };
        let arrives = now + self.random(self.faults.delay + 1);
        self.answers.push((arrives, node, Event::Answered(call, answer)));
    }

    /// The nodes that may act as leader now.
    fn claimants(&self) -> Vec<usize> {
        let claims = |node: &Node| node.claim.as_ref().is_some_and(|(_, end)| at(self.now) < *end);
        (0..self.nodes.len()).filter(|node| claims(&self.nodes[*node])).collect()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let claimants = self.claimants();
        prop_assert!(claimants.len() <= 1, "{claimants:?} lead at {}", self.now);
        for node in claimants {
            let (claimed, _) = self.nodes[node].claim.as_ref().unwrap();
            let held = self.holder.as_ref().filter(|(.., expires)| self.now < *expires);
            let held = held.map(|(_, fence, _)| fence);
            prop_assert_eq!(held, Some(claimed), "node {} at {}", node, self.now);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nobody_leads_twice_or_past_the_lease(
        seed in any::<u64>(),
        nodes in 1_usize..4,
        delay in 0_u64..900,
        lost in 0_u64..40,
        stall in 0_u64..10,
        transfer in 0_u64..20,
    ) {
        let mut world = World::new(seed, nodes, Faults { delay, lost, stall, transfer });
        while world.now < 8_000 {
            world.step();
            world.check()?;
        }
        // When faults stop, somebody leads, and goes on leading.
        world.faults = Faults { delay: 5, lost: 0, stall: 0, transfer: 0 };
        let calm = world.now + 8_000;
        let mut leader = None;
        while world.now < calm + 5_000 {
            world.step();
            world.check()?;
            if world.now > calm {
                let claimants = world.claimants();
                prop_assert_eq!(claimants.len(), 1, "at {}", world.now);
                prop_assert_eq!(*leader.get_or_insert(claimants[0]), claimants[0]);
            }
        }
        // And when all are stopped, all end, and the lease is free.
        for node in 0..nodes {
            world.tell(node, Event::Shutdown);
            world.tell(node, Event::Drained);
        }
        for _ in 0..200 {
            world.step();
            world.check()?;
        }
        prop_assert!(world.nodes.iter().all(|node| node.stopped && node.claim.is_none()));
        prop_assert!(world.holder.is_none());
    }
}
