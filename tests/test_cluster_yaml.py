"""The two cluster files: Ray's own check of them, and what that check lets through."""

import copy
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
AWS = ROOT / "ray_cluster.yaml"
LOCAL = ROOT / "docs" / "ray_cluster_local.yaml"
BOTH = pytest.mark.parametrize("path", [AWS, LOCAL], ids=["aws", "local"])


def load(path):
    return yaml.safe_load(path.read_text())


def check(config):
    """Ray's own check; private, but Ray's version is pinned and there is no public one that works offline."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))


@BOTH
def test_ray_accepts_the_file(path):
    check(load(path))


def test_ray_would_refuse_a_slip():
    from jsonschema import ValidationError

    config = load(AWS)
    config["idle_timeout_minuets"] = config.pop("idle_timeout_minutes")
    with pytest.raises(ValidationError, match="idle_timeout_minuets"):
        check(config)


@BOTH
def test_what_the_schema_does_not_ask_for_is_there(path):
    config = load(path)
    assert config["cluster_name"]
    [head_start] = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    [worker_start] = [line for line in config["worker_start_ray_commands"] if "ray start" in line]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head_start
    assert "--address=$RAY_HEAD_IP:6379" in worker_start
    assert "--port=6379" in head_start
    drivers = next(line for line in config["setup_commands"] if ".persim_profile" in line)
    for command in (head_start, worker_start, drivers):
        # The exports must come first, or ray start runs without them.
        exports = command.partition("ray start")[0]
        assert re.search(r"\bRAY_AUTH_MODE=token\b", exports)
        assert re.search(r"\bRAY_grpc_client_keepalive_time_ms=\d+\b", exports)
        assert re.search(r"\bRAY_grpc_client_keepalive_timeout_ms=\d+\b", exports)


@BOTH
def test_nothing_but_ray_itself_listens_beyond_the_machine(path):
    config = load(path)
    starts = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert set(re.findall(r"host[ =]([\w.*:]+)", starts)) == {"127.0.0.1"}
    assert starts.count("--dashboard-host=127.0.0.1") == 1
    assert "mlflow server --host 127.0.0.1" in starts
    assert "0.0.0.0" not in path.read_text()


@BOTH
def test_what_is_copied_exists_and_the_token_is_private(path):
    mounts = load(path)["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    for source in mounts.values():
        # A package without its repository (an unpacked archive) has no .git; the rest must be there.
        assert source == ".git" or (ROOT / source).exists()
    assert any("chmod 600 ~/.ray/auth_token" in line for line in load(path)["setup_commands"])


@BOTH
def test_the_pinned_versions_are_installed(path):
    text = "\n".join(load(path)["setup_commands"])
    assert "-c constraints.txt -e '.[cluster]'" in text
    assert "://" not in text  # no index or host of our own


def test_both_files_set_machines_up_in_the_same_way():
    aws, local = load(AWS), load(LOCAL)
    same = ("file_mounts", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    assert [aws[key] for key in same] == [local[key] for key in same]
    assert set(local["setup_commands"]) < set(aws["setup_commands"])


def test_aws_opens_ssh_only():
    group = load(AWS)["provider"]["security_group"]
    assert group["GroupName"]
    # Ray itself adds port 22 and the cluster's own traffic to a new group; anything listed comes on top.
    ports = {(rule["FromPort"], rule["ToPort"]) for rule in group.get("IpPermissions", [])}
    assert ports <= {(22, 22)}
    for node in load(AWS)["available_node_types"].values():
        assert "SecurityGroupIds" not in node["node_config"]


def test_aws_grows_from_nothing_and_shrinks_back():
    config = load(AWS)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+-\d", config["provider"]["region"])
    assert config["provider"]["cache_stopped_nodes"] is False
    assert 0 < config["idle_timeout_minutes"] <= 30
    head = config["available_node_types"][config["head_node_type"]]
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    [worker] = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= config["max_workers"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    for node in (head["node_config"], worker["node_config"]):
        assert node["IamInstanceProfile"]["Name"]  # without one a machine cannot reach the bucket
        assert node["MetadataOptions"] == {"HttpTokens": "required"}


def test_aws_node_settings_are_those_of_ec2():
    session = pytest.importorskip("botocore.session", reason="botocore comes with persim[cluster]")
    from botocore.validate import ParamValidator

    model = session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    known = model.shape_for("InstanceType").enum
    for node in load(AWS)["available_node_types"].values():
        settings = node["node_config"]
        assert settings["InstanceType"] in known
        report = ParamValidator().validate({**settings, "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), report.generate_report()
