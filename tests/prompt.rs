//! What a person at a terminal sees: the password is asked for, and the terminal is as it was afterwards, however that ended.

mod common;

use std::process::Command;

use common::{Run, Sandbox, have};

/// Runs a script against sessions at pseudo terminals; false if python3 is missing.
fn at_a_terminal(sandbox: &Sandbox, steps: &str) -> bool {
    if !have("python3") {
        return false;
    }
    std::fs::write(sandbox.path("steps.py"), format!("{TERMINAL}\n{steps}\n")).expect("write a script");
    let mut command = Command::new("python3");
    command.arg("steps.py").current_dir(sandbox.path(".")).env("TINTYPE", env!("CARGO_BIN_EXE_tintype"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TINTYPE_")) {
        command.env_remove(name);
    }
    command.env("TINTYPE_CACHE_DIR", sandbox.path("cache")).env("TINTYPE_REPOSITORY", sandbox.path("repo"));
    Run::of(&command.output().expect("start python3")).ok();
    true
}

/// A terminal, and in its session a shell with job control that runs one program.
const TERMINAL: &str = r#"
import os, pty, select, signal, sys, termios, time

def need(condition, message):
    if not condition:
        sys.exit(message)

IGNORED = [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN]

def shell(program, report, control):
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        for number in IGNORED:
            signal.signal(number, signal.SIG_DFL)
        os.execvp(program[0], program)
    os.write(report, f"{child}\n".encode())
    while True:
        status = os.waitpid(child, os.WUNTRACED)[1]
        os.tcsetpgrp(0, os.getpgrp())
        if os.WIFSTOPPED(status):
            os.write(report, b"stopped\n")
            if os.read(control, 1) == b"f":
                os.tcsetpgrp(0, child)
            os.killpg(child, signal.SIGCONT)
        else:
            os.write(report, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.read(control, 1)
            os._exit(0)

class Terminal:
    def __init__(self, *arguments):
        (report, to_report), (control, self.control) = os.pipe(), os.pipe()
        self.child, self.end = pty.fork()
        if self.child == 0:
            os.close(self.control)
            shell([os.environ["TINTYPE"], *arguments], to_report, control)
        os.close(to_report)
        self.report = os.fdopen(report, "rb", 0)
        self.seen = b""
        self.before = self.modes()
        self.program = int(self.reported())

    def read(self, seconds):
        if not select.select([self.end], [], [], max(seconds, 0))[0]:
            return False
        try:
            self.seen += os.read(self.end, 4096)
            return True
        except OSError:
            return False

    def expect(self, words, seconds=60):
        until = time.monotonic() + seconds
        while words.encode() not in self.seen:
            need(self.read(until - time.monotonic()), f"expected {words!r}, found {self.seen!r}")
        before, _, self.seen = self.seen.partition(words.encode())
        return before

    def reported(self):
        need(select.select([self.report], [], [], 60)[0], f"nothing happened; the terminal has {self.seen!r}")
        return self.report.readline().decode().strip()

    def modes(self):
        return termios.tcgetattr(self.end)[:4]

    def is_as_before(self):
        need(self.modes() == self.before, f"the terminal has other modes: {self.before}, {self.modes()}")

    def type(self, text):
        os.write(self.end, text.encode())

    def answer(self, prompt, text):
        before = self.expect(prompt)
        until = time.monotonic() + 60
        while self.modes()[3] & termios.ECHO:
            need(time.monotonic() < until, "the terminal never became silent")
            time.sleep(0.01)
        self.type(text)
        return before

    def ends(self, code):
        found = self.reported()
        need(found == str(code), f"it ended with {found}, expected {code}; the terminal has {self.seen!r}")
        self.is_as_before()
        os.close(self.control)
        while self.read(1):
            pass
        os.waitpid(self.child, 0)
"#;

fn repository() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("secret"), "secret").expect("write a password");
    sandbox.run(["init", "repo", "--password-file", "secret", "--no-recovery-key"]).ok();
    sandbox
}

#[test]
fn whatever_ends_the_question_leaves_the_terminal_as_it_was() {
    let steps = r#"
for key in ["\x03", "\x1c"]:
    terminal = Terminal("snapshots")
    terminal.answer("password: ", "half" + key)
    terminal.ends(130)
for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]:
    terminal = Terminal("snapshots")
    terminal.answer("password: ", "half")
    os.kill(terminal.program, number)
    terminal.ends(130)
terminal = Terminal("snapshots", "--json")
terminal.answer("password: ", "secret\n")
terminal.expect('"snapshots"')
terminal.ends(0)
need(b"secret" not in terminal.seen, "the password was shown")
"#;
    at_a_terminal(&repository(), steps);
}

#[test]
fn a_question_that_was_stopped_is_asked_again() {
    let steps = r#"
terminal = Terminal("snapshots", "--json")
for _ in range(3):
    terminal.answer("password: ", "half\x1a")
    need(terminal.reported() == "stopped", "Ctrl-Z did not stop it")
    terminal.is_as_before()
    os.write(terminal.control, b"f")
terminal.answer("password: ", "half\x1a")
need(terminal.reported() == "stopped", "Ctrl-Z did not stop it")
# In the background it must not touch the terminal.
os.write(terminal.control, b"b")
need(terminal.reported() == "stopped", "it went on in the background")
terminal.is_as_before()
os.write(terminal.control, b"f")
terminal.answer("password: ", "secret\n")
terminal.expect('"snapshots"')
terminal.ends(0)
terminal = Terminal("snapshots", "--json")
terminal.answer("password: ", "half\x1a")
need(terminal.reported() == "stopped", "Ctrl-Z did not stop it")
os.write(terminal.control, b"f")
terminal.answer("password: ", "\x03")
terminal.ends(130)
"#;
    at_a_terminal(&repository(), steps);
}

/// After a question, Ctrl-C ends the program as before.
#[test]
fn after_the_question_signals_do_what_they_did() {
    let sandbox = repository();
    let steps = r#"
os.mkfifo("pipe")
terminal = Terminal("key", "add", "--role", "write", "--name", "a", "--new-password-file", "pipe")
terminal.answer("password: ", "secret\n")
until = time.monotonic() + 60
while terminal.modes() != terminal.before:
    need(time.monotonic() < until, "the terminal stayed silent")
    time.sleep(0.01)
terminal.type("\x03")
terminal.ends(-signal.SIGINT)
"#;
    at_a_terminal(&sandbox, steps);
}

#[test]
fn a_typed_password_has_three_tries() {
    let steps = r#"
for wrong, code in [(0, 0), (1, 0), (2, 0), (3, 12)]:
    terminal = Terminal("snapshots", "--json")
    for number in range(wrong):
        terminal.answer("password: ", ["wrong\n", "\n", "SECRET\n"][number])
        terminal.expect("opens none of the 1 key slots")
        if number < 2:
            terminal.expect("; try again")
    if wrong < 3:
        terminal.answer("password: ", "secret\n")
        terminal.expect('"snapshots"')
    terminal.ends(code)
"#;
    at_a_terminal(&repository(), steps);
}

#[test]
fn a_new_password_is_typed_twice() {
    let sandbox = Sandbox::new();
    let steps = r#"
terminal = Terminal("init", "--no-recovery-key")
terminal.answer("password of the new repository: ", "one\n")
terminal.answer("the same again: ", "other\n")
terminal.expect("not the same; try again")
terminal.answer("password of the new repository: ", "\n")
terminal.expect("empty; try again")
terminal.answer("password of the new repository: ", "secret\n")
terminal.answer("the same again: ", "secret\n")
terminal.ends(0)
terminal = Terminal("init", "other", "--no-recovery-key")
for _ in range(3):
    terminal.answer("password of the new repository: ", "one\n")
    terminal.answer("the same again: ", "other\n")
terminal.ends(2)
"#;
    if at_a_terminal(&sandbox, steps) {
        std::fs::write(sandbox.path("secret"), "secret\n").expect("write a password");
        sandbox.run(["snapshots", "-r", "repo", "--password-file", "secret"]).ok();
        assert!(!sandbox.path("other").exists(), "nothing is made without a password");
    }
}

/// An exported file asks for its password at the terminal, too.
#[test]
fn an_encrypted_image_has_three_tries() {
    let sandbox = repository();
    sandbox.raw_disk("a.raw", 1 << 20, 4);
    sandbox.run(["backup", "a.raw", "-r", "repo", "--password-file", "secret"]).ok();
    sandbox.run(["export", "a", "a.tin", "-r", "repo", "--password-file", "secret"]).ok();
    let steps = r#"
for wrong, code in [(2, 0), (3, 12)]:
    terminal = Terminal("digest", "a.tin")
    for number in range(wrong):
        terminal.answer("password of a.tin: ", "wrong\n")
        terminal.expect("opens none of its 1 key slots")
    if wrong < 3:
        terminal.answer("password of a.tin: ", "secret\n")
    terminal.ends(code)
"#;
    at_a_terminal(&sandbox, steps);
}

/// Files and commands are asked once: they would say the same again.
#[test]
fn what_is_not_typed_has_one_try() {
    let sandbox = repository();
    std::fs::write(sandbox.path("wrong"), "wrong").expect("write a password");
    sandbox.run(["snapshots", "-r", "repo", "--password-file", "wrong"]).fails(12, "opens none");
    let counted = "echo x >>count; echo wrong";
    sandbox.run(["snapshots", "-r", "repo", "--password-command", counted]).fails(12, "opens none");
    assert_eq!(std::fs::read(sandbox.path("count")).expect("a file"), b"x\n");
}
