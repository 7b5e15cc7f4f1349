"""tf.train.Example, the protocol buffer that TFDS stores a record as: names to lists of values."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

LISTS = {"bytes_list": "TYPE_BYTES", "float_list": "TYPE_FLOAT", "int64_list": "TYPE_INT64"}

Values = Sequence[bytes] | np.ndarray
"""A list of bytes, or numbers in float32 or int64."""


class Example(Mapping[str, Values]):
    """The features of a serialized example. Raises ValueError if it is none."""

    def __init__(self, record: bytes):
        try:
            self._features = message()().FromString(record).features.feature
        except DecodeError as error:
            raise ValueError("is no tf.train.Example") from error

    def __getitem__(self, name: str) -> Values:
        if name not in self._features:  # of a protocol buffer, asking would make it
            raise KeyError(name)
        kind = self._features[name].WhichOneof("kind")
        if kind is None:
            return []
        values = getattr(self._features[name], kind).value
        if kind == "bytes_list":
            return values
        return np.array(values, np.int64 if kind == "int64_list" else np.float32)

    def __iter__(self):
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


@cache
def message() -> Any:
    """The class of the protocol buffer, in a pool of its own: TensorFlow brings the same one."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="vdm", syntax="proto3")
    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(LISTS.items(), start=1):
        _field(file.message_type.add(name=name), "value", 1, kind, repeated=True)
        _field(feature, name, number, f".vdm.{name}", oneof_index=0)
    features = descriptor_pb2.DescriptorProto(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    _field(entry, "key", 1, "TYPE_STRING")
    _field(entry, "value", 2, ".vdm.Feature")
    _field(features, "feature", 1, ".vdm.Features.FeatureEntry", repeated=True)
    example = descriptor_pb2.DescriptorProto(name="Example")
    _field(example, "features", 1, ".vdm.Features")
    file.message_type.extend([feature, features, example])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("vdm.Example"))


def _field(message: Any, name: str, number: int, kind: str, **more: Any) -> None:
    """Add a field. kind: a scalar type, or the name of a message."""
    repeated = more.pop("repeated", False)
    message.field.add(
        name=name,
        number=number,
        label="LABEL_REPEATED" if repeated else "LABEL_OPTIONAL",
        **({"type_name": kind} if kind.startswith(".") else {"type": kind}),
        **more,
    )
