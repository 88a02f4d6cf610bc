"""The messages and methods of Tally's API, generated from proto/ when this module is imported."""

import importlib
import pathlib
import sys
import tempfile

import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2] / "proto"
FILES = ["tally/v1/types.proto", "tally/v1/account_service.proto", "tally/v1/transaction_service.proto"]


def generate():
    includes = [f"-I{ROOT}", f"-I{pathlib.Path(grpc_tools.__file__).parent / '_proto'}"]
    with tempfile.TemporaryDirectory() as directory:
        code = protoc.main(["protoc", *includes, f"--python_out={directory}", f"--grpc_python_out={directory}", *FILES])
        assert code == 0, "protoc failed"
        sys.path.insert(0, directory)
        try:
            names = ("types_pb2", "account_service_pb2", "transaction_service_pb2", "account_service_pb2_grpc")
            return [importlib.import_module(f"tally.v1.{name}") for name in (*names, "transaction_service_pb2_grpc")]
        finally:
            sys.path.remove(directory)


types, accounts, transactions, account_methods, transaction_methods = generate()
