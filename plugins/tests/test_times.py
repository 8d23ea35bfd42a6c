"""How long the checks take: what is read from Molecule's lines and pytest's report."""

import times


def test_steps_are_told_apart_by_the_lines_of_molecule(monkeypatch):
    now = iter([0.0, 1.0, 11.0, 16.0, 20.0])
    monkeypatch.setattr(times.time, "monotonic", lambda: next(now))
    clock = times.Clock()
    for line in (
        "INFO     [failure > destroy] Executing\n",
        "INFO     [failure > destroy] Executed: Successful\n",
        "INFO     [failure > create] Executing\n",
        "INFO     [failure > verify] Executing Testinfra tests found in /x...\n",
        "INFO     [failure > destroy] Executing\n",
    ):
        clock.see(line)
    clock.end()
    assert clock.steps == {"destroy": 14.0, "create": 5.0}


def test_tests_are_read_from_the_report(tmp_path):
    report = tmp_path / "report.xml"
    cases = '<testcase classname="tests.test_a" name="test_b[x]" time="1.26"/><testcase name="test_c" classname="t"/>'
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert times.tests(report) == {"tests.test_a::test_b[x]": 1.3, "t::test_c": 0.0}
    assert times.tests(tmp_path / "none.xml") == {}


def test_longest_scenario_comes_first_and_a_check_without_steps_is_none():
    measured = {
        "unit tests": {"seconds": 99.0, "steps": {}, "tests": {"a::b": 2.0}},
        "scenario x": {"seconds": 10.4, "steps": {"create": 3.2}, "tests": {}},
        "scenario y": {"seconds": 20.0, "steps": {"verify": 7.0}, "tests": {"c::d": 5.0}},
    }
    assert [row[:2] for row in times.rows(measured)] == [["y", "20"], ["x", "10"]]
    assert "| x | 10 | 3 |" in times.table(measured)
    assert "    5.0 s  scenario y: c::d\n    2.0 s  unit tests: a::b" in times.report(measured)


def test_run_of_one_scenario_renews_its_entry_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(times, "KEPT", tmp_path / "seconds.json")
    times.keep({"a": {"seconds": 1.0}, "b": {"seconds": 2.0}})
    times.keep({"b": {"seconds": 3.0}})
    assert times.read() == {"a": {"seconds": 1.0}, "b": {"seconds": 3.0}}
