"""nuclei.parquet: all nuclei of a version, as they were asked for."""

import pandas as pd
import pyarrow as pa

from somatic.errors import StoreError, one_line
from somatic.storage.parquet import check_once, parquet_bytes, table_from_parquet
from somatic.storage.places import NUCLEI
from somatic.storage.store import ResultStore
from somatic.tables import Nuclei, Resolution

_SCHEMA = pa.schema([(name, pa.int64()) for name in ("nucleus_id", "root_id", "x_vx", "y_vx", "z_vx")])


def put_nuclei(store: ResultStore, nuclei: Nuclei) -> None:
    """Keep the nuclei of a version beside its results.

    Raises
    ------
    StoreError, StoreUnavailable
        They were not written, for good or for now.
    """
    table = pa.Table.from_pandas(nuclei.frame, _SCHEMA, preserve_index=False).replace_schema_metadata(None)
    store.put(NUCLEI, parquet_bytes(table))


def load_nuclei(store: ResultStore, resolution_nm: Resolution) -> Nuclei:
    """Read the nuclei of a version.

    Parameters
    ----------
    store : ResultStore
        Where its results lie.
    resolution_nm : (3,) float
        Size of a voxel of the positions, which the file does not hold (`Plan.resolution_nm`).

    Raises
    ------
    StoreError, StoreUnavailable
        They could not be read, for good or for now, or the file is no table of nuclei.
    """
    where = store.url_of(NUCLEI)
    table = table_from_parquet(store.get(NUCLEI), where, _SCHEMA.names).select(_SCHEMA.names)
    try:
        table = table.cast(_SCHEMA)
        frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get, ignore_metadata=True)
        frame = frame.astype({"nucleus_id": "int64", "root_id": "int64"})
    except MemoryError:
        # That of Arrow is an ArrowException as well.
        raise
    except (pa.ArrowException, ValueError) as error:
        raise StoreError(f"{where} is no table of nuclei ({one_line(error)}); extract this version again") from error
    check_once(table, where)
    return Nuclei(frame, resolution_nm)
