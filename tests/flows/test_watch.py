"""The flow `watch` on a real Prefect server, before a CAVE server that publishes versions."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from extracting import TOKEN, Results, changed, error_of, proofread, run, without_nuclei
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running, State

import flows.deployed
from flows.extract import extract
from flows.listening import Listener, heard_by
from flows.watch import watch
from sandbox.cave.server import CaveServer, Datastack
from sandbox.lab import write_cave_dataset
from sandbox.phantom.scene import Scene
from somatic.errors import DatasetError, IncompleteExtraction, PermanentError
from somatic.results.runs import load_runs
from somatic.storage.store import ResultStore

pytestmark = pytest.mark.usefixtures("no_report")


@dataclass(frozen=True)
class Looked:
    """What one look came to."""

    state: State
    said: list[str]

    @property
    def missing(self) -> list[int]:
        """Versions that it leaves without a complete table."""
        assert self.state.is_completed(), self.state
        return self.state.result()


def look(dataset: Path, results: Results, **parameters: Any) -> Looked:
    """Run the flow in this process."""
    said: list[str] = []
    with heard_by(Listener(on_note=said.append)):
        state = watch(str(dataset), to=results.root, **parameters, return_state=True)
    return Looked(state, said)


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    """Prefect's API."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def results(undisturbed: Results, tmp_path: Path) -> Results:
    """A place where the table of version 1 is complete; seen from version 2."""
    shutil.copytree(undisturbed.root, tmp_path / "results")
    return Results(str(tmp_path / "results"), version=2)


class Deployed:
    """A deployment of `extract` that no worker serves, so that its runs stand as the tests set them."""

    name = "extract/watched"

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client
        flow_id = client.create_flow_from_name("extract")
        schema = extract.parameters.model_dump(exclude_unset=True)
        self._id = client.create_deployment(
            flow_id, "watched", parameters={"workers": 3}, parameter_openapi_schema=schema
        )

    @property
    def runs(self) -> list[FlowRun]:
        """Its flow runs, by version."""
        chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[self._id]))
        return sorted(self._client.read_flow_runs(flow_run_filter=chosen), key=lambda run: run.parameters["version"])

    def by_hand(self, results: Results, version: int, state: State) -> UUID:
        """A run as a person starts one, which has planned all cells of a version, and stands as is said."""
        by_hand = self._client.create_flow_run_from_deployment(
            self._id, parameters={"dataset": "phantom", "version": version}
        )
        self._client.set_flow_run_state(by_hand.id, state, force=True)
        [first] = load_runs(ResultStore(f"{results.root}/phantom"))
        replace(first, id=str(by_hand.id), version=version).put(ResultStore(f"{results.root}/phantom"))
        return by_hand.id

    def delete(self) -> None:
        """Take it and its runs off the server."""
        for each in self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[self._id]))
        ):
            self._client.delete_flow_run(each.id)
        self._client.delete_deployment(self._id)


@pytest.fixture
def deployed(client: SyncPrefectClient) -> Iterator[Deployed]:
    """The deployment, for one test."""
    deployed = Deployed(client)
    yield deployed
    deployed.delete()


@pytest.fixture
def later_dataset(stack: Datastack, request: pytest.FixtureRequest) -> Path:
    """The scene behind CAVE, which has published versions 3 and 4 too, has dropped 5 and is making 6."""
    last = stack.version(2)
    assert last
    later = [proofread(last, 4), proofread(last, 3)]
    stack.versions.extend([*later, replace(proofread(last, 6), valid=False, status="RUNNING")])
    stack.versions.append(replace(proofread(last, 5), valid=False))
    # The server starts with what there is.
    return request.getfixturevalue("cave_dataset")


def artifact(client: SyncPrefectClient, looked: Looked) -> str:
    """What the UI shows of a look."""
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[looked.state.state_details.flow_run_id]))
    [found] = client.read_artifacts(artifact_filter=chosen)
    assert found.key == "phantom-versions"
    return str(found.data)


def test_nothing_extracted_yet(
    client: SyncPrefectClient, cave_dataset: Path, deployed: Deployed, tmp_path: Path
) -> None:
    """The first table costs much: one line says how a person makes it, and nothing is started."""
    results = Results(str(tmp_path / "results"))
    here = look(cave_dataset, results)
    assert here.missing == [2, 1]
    [line] = here.said
    assert line == (
        f"phantom: no complete table at {results.root}/phantom, so nothing is started; "
        f"make the first with: somatic extract {cave_dataset}"
    )
    there = look(cave_dataset, results, extract_deployment=deployed.name)
    assert there.said[0].endswith("make the first with: prefect deployment run extract/watched")
    assert deployed.runs == []
    assert not (tmp_path / "results").exists()
    assert "\n| 2 | 2024-07-19 20:17 | never | new |\n" in artifact(client, here)


def test_a_sample_is_no_first_table(dataset: Path, cave_dataset: Path, deployed: Deployed, tmp_path: Path) -> None:
    """Nor is the table of another mip or radius."""
    results = Results(str(tmp_path / "results"))
    assert run(dataset, results.root, limit=4).is_completed()
    assert look(cave_dataset, results, extract_deployment=deployed.name).said[0].startswith("phantom: no complete")
    assert run(dataset, results.root).is_completed()
    changed(cave_dataset, ("cutout_radius_um = 2.0", "cutout_radius_um = 2.1"))
    assert look(cave_dataset, results, extract_deployment=deployed.name).said[0].startswith("phantom: no complete")
    assert deployed.runs == []


def test_a_new_version_is_extracted_here(
    client: SyncPrefectClient, cave_dataset: Path, results: Results, tmp_path: Path
) -> None:
    """Its table is that of an extraction of this version; another look finds nothing to do."""
    assert look(cave_dataset, results, dry_run=True).missing == [2]
    assert not (tmp_path / "results/phantom/v2").exists()
    looked = look(cave_dataset, results)
    assert looked.missing == []
    assert looked.said == ["phantom v2: is extracted here"]
    assert "| 1 | 2024-04-20 20:17 | never | complete |\n\n- phantom v2: is extracted here" in artifact(client, looked)
    alone = Results(str(tmp_path / "alone"), version=2)
    assert run(cave_dataset, alone.root, version=2).is_completed()
    assert results.features == alone.features

    again = look(cave_dataset, results)
    assert again.missing == []
    assert again.said == ["phantom: the table of v2 is complete, and there is no newer version"]


def test_those_that_fail_do_not_keep_the_others(scene: Scene, later_dataset: Path, results: Results) -> None:
    """Version 4 has the segmentation of another, 3 one that is not there: each says so, 2 is extracted all the same."""
    changed(later_dataset, ('\n2 = "', '\n3 = "precomputed://file:///three"\n2 = "'))
    looked = look(later_dataset, results)
    error = error_of(looked.state)
    assert isinstance(error, IncompleteExtraction)
    assert str(error).startswith("phantom: 2 of 3 versions came to no complete table: v4, v3; ")
    reasons = [looked.said.pop(1), looked.said.pop(2)]
    assert looked.said == [f"phantom v{number}: is extracted here" for number in (4, 3, 2)]
    assert reasons[0].startswith("phantom v4: ")
    assert " is not the segmentation of phantom v4: at 13 of 13 nuclei " in reasons[0]
    assert reasons[1].startswith("phantom v3: ")
    assert "/three" in reasons[1]
    assert results.table.index.tolist() == sorted(scene.nuclei(2)["id"])


def test_two_looks_are_one_run(
    client: SyncPrefectClient, cave_dataset: Path, results: Results, deployed: Deployed
) -> None:
    """The run has the number of its version, and all else as deployed; the second look finds it, and says how it is."""
    assert look(cave_dataset, results, extract_deployment=deployed.name, dry_run=True).said == [
        "phantom v2: to be started as extract/watched"
    ]
    assert deployed.runs == []
    first = look(cave_dataset, results, extract_deployment=deployed.name)
    assert first.missing == [2]
    [started] = deployed.runs
    assert first.said == [f"phantom v2: started as flow run {started.name} ({started.id})"]
    [v1] = ResultStore(f"{results.root}/phantom/v1").names("")
    assert started.idempotency_key.rpartition(":")[0] == f"phantom:2:{v1}"
    assert started.parameters == {"workers": 3, "dataset": str(cave_dataset), "version": 2, "to": results.root}
    assert started.parent_task_run_id is None

    second = look(cave_dataset, results, extract_deployment=deployed.name)
    client.set_flow_run_state(started.id, Running(), force=True)
    third = look(cave_dataset, results, extract_deployment=deployed.name)
    its_run = f"phantom v2: its flow run {started.name} ({started.id})"
    assert [second.said, third.said] == [[f"{its_run} is Scheduled"], [f"{its_run} is Running"]]
    assert [each.id for each in deployed.runs] == [started.id]
    assert started.name in artifact(client, third)


def test_each_new_version_has_a_run(later_dataset: Path, results: Results, deployed: Deployed) -> None:
    """The newest first; those that CAVE has dropped, or is still making, are left alone."""
    looked = look(later_dataset, results, extract_deployment=deployed.name)
    assert looked.missing == [4, 3, 2]
    assert [line[:32] for line in looked.said] == [f"phantom v{n}: started as flow run " for n in (4, 3, 2)]
    assert [each.parameters["version"] for each in deployed.runs] == [2, 3, 4]


def test_a_version_that_cannot_be_extracted(
    scene: Scene, stack: Datastack, results: Results, deployed: Deployed, tmp_path: Path
) -> None:
    """It is said why, and nothing is started for it."""
    with CaveServer(replace(stack, segmentation_source=""), token=TOKEN) as cave:
        dataset = without_nuclei(write_cave_dataset(scene, cave.url, tmp_path / "phantom.toml"))
        changed(dataset, (f'2 = "{scene.segmentation_url(2)}"\n', ""))
        looked = look(dataset, results, extract_deployment=deployed.name)
    assert looked.missing == [2]
    assert looked.said[0].startswith("phantom v2: cannot be extracted: phantom: neither the dataset nor its datastack ")
    assert deployed.runs == []


@pytest.mark.parametrize("ended", [Failed(message="CAVE was away"), Crashed(message="its pod is gone")], ids=str)
def test_a_run_that_failed_is_the_same_run_again(
    client: SyncPrefectClient,
    cave_dataset: Path,
    results: Results,
    deployed: Deployed,
    ended: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits for its worker as a retry, and its reason is said; a dry run leaves it as it is."""
    monkeypatch.setattr(flows.deployed, "_AFTER_CRASH", timedelta(seconds=1))
    look(cave_dataset, results, extract_deployment=deployed.name)
    [started] = deployed.runs
    client.set_flow_run_state(started.id, ended, force=True)
    its_run = f"phantom v2: its flow run {started.name} ({started.id}) {ended.type.value.lower()} ({ended.message})"
    dry = look(cave_dataset, results, extract_deployment=deployed.name, dry_run=True)
    assert dry.said == [f"{its_run}; to be started again"]
    assert client.read_flow_run(started.id).state_type == ended.type
    looked = look(cave_dataset, results, extract_deployment=deployed.name)
    assert looked.said == [f"{its_run} and is started again"]
    [same] = deployed.runs
    assert (same.id, same.state_name) == (started.id, "AwaitingRetry")
    before, after = client.read_flow_run_states(started.id)[-2:]
    assert ended.type != "CRASHED" or after.timestamp - before.timestamp >= timedelta(seconds=1)


@pytest.mark.parametrize("ended", [Cancelling(), Cancelled()], ids=str)
def test_a_run_that_was_cancelled_is_left_alone(
    client: SyncPrefectClient, cave_dataset: Path, results: Results, deployed: Deployed, ended: State
) -> None:
    """Somebody did not want it: it is said how to have it all the same."""
    look(cave_dataset, results, extract_deployment=deployed.name)
    [started] = deployed.runs
    client.set_flow_run_state(started.id, Running(), force=True)
    client.set_flow_run_state(started.id, ended, force=True)
    looked = look(cave_dataset, results, extract_deployment=deployed.name)
    assert looked.missing == [2]
    assert looked.said[0].endswith(f"was cancelled and is left alone; to have it: prefect flow-run retry {started.id}")
    [same] = deployed.runs
    assert (same.id, same.state_type) == (started.id, ended.type)


def test_a_run_that_is_complete_without_a_table(
    client: SyncPrefectClient, cave_dataset: Path, results: Results, deployed: Deployed
) -> None:
    """Somebody deleted what it made, perhaps: it is said how to make it again."""
    look(cave_dataset, results, extract_deployment=deployed.name)
    [started] = deployed.runs
    client.set_flow_run_state(started.id, Completed(), force=True)
    [line] = look(cave_dataset, results, extract_deployment=deployed.name).said
    assert "is Completed, but there is no complete table" in line
    assert line.endswith("start another: prefect deployment run extract/watched -p version=2")
    assert [each.id for each in deployed.runs] == [started.id]


@pytest.mark.parametrize(
    ("state", "says", "n_runs"),
    [
        (Pending(), "is Pending", 1),
        (Cancelled(), "was cancelled and is left alone", 1),
        (Failed(), "started as flow run", 2),
    ],
    ids=["under way", "cancelled", "failed"],
)
def test_what_a_person_began(
    cave_dataset: Path, results: Results, deployed: Deployed, state: State, says: str, n_runs: int
) -> None:
    """A run by hand that goes on or was cancelled is respected; after one that failed ours takes its work up."""
    by_hand = deployed.by_hand(results, 2, state)
    looked = look(cave_dataset, results, extract_deployment=deployed.name)
    assert says in looked.said[0]
    assert (str(by_hand) in looked.said[0]) == (n_runs == 1)
    assert len(deployed.runs) == n_runs


def test_only_whole_extractions_are_taken_up(dataset: Path, tmp_path: Path) -> None:
    """Beside the results it is noted whether a run planned all nuclei."""
    results = ResultStore(str(tmp_path / "results/phantom"))
    for selection in ({"limit": 4}, {"sample": 4}, {"limit": 15}, {}):
        assert run(dataset, tmp_path / "results", **selection).is_completed()
    assert [noted.whole for noted in load_runs(results)] == [True, True, False, False]


@pytest.mark.parametrize(("days", "is_said"), [(-1, True), (9, True), (13, True), (15, False), (None, False)])
def test_a_version_that_expires_soon(
    client: SyncPrefectClient,
    stack: Datastack,
    cave_dataset: Path,
    results: Results,
    deployed: Deployed,
    days: int | None,
    is_said: bool,
) -> None:
    """It is said when, in words and in the UI, and it is extracted all the same; so is one that is past its date."""
    expires = None if days is None else datetime.now(UTC).replace(tzinfo=None) + timedelta(days=days)
    last = stack.version(2)
    assert last
    stack.versions[stack.versions.index(last)] = replace(last, expires_on=expires)
    looked = look(cave_dataset, results, extract_deployment=deployed.name)
    verb = "expired" if days == -1 else "expires"
    expected = f"phantom v2 {verb} on {expires:%Y-%m-%d %H:%M} UTC; " if expires else ""
    assert [line.startswith(expected) for line in looked.said] == ([True, False] if is_said else [not expected])
    assert len(deployed.runs) == 1
    row = f"| {expires:%Y-%m-%d} | new |" if expires else "| never | new |"
    assert row in artifact(client, looked)


def test_tables_in_files(dataset: Path, results: Results) -> None:
    """One line says that there is but one version."""
    error = error_of(look(dataset, results).state)
    assert isinstance(error, DatasetError)
    assert str(error).startswith("phantom: its tables are files, which have one version, 1; ")


def test_a_deployment_that_is_not_there(cave_dataset: Path, results: Results) -> None:
    """One line names it and says how to make it."""
    error = error_of(look(cave_dataset, results, extract_deployment="extract/nowhere").state)
    assert isinstance(error, PermanentError)
    assert str(error) == "there is no deployment 'extract/nowhere' for new versions; make it with: somatic deploy"


def test_cave_is_away_for_a_moment(cave: CaveServer, cave_dataset: Path, results: Results, deployed: Deployed) -> None:
    """An answer that may pass is asked for again."""
    cave.fail("materialize/api/v3/datastack/phantom/metadata", 502, times=2)
    assert look(cave_dataset, results, extract_deployment=deployed.name).missing == [2]
