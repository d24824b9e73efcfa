"""Files are data: nothing in them is executed, fetched, or followed out of its place (S4, S6, S7)."""

import json

import numpy as np
import pytest
from faults import make
from faults.make import put

from biosegkit.errors import FileError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import read, write

PLANE = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_S4_pickle_filter_in_a_zarr_is_never_decoded(tmp_path):
    marker, store = tmp_path / "ran", tmp_path / "a.zarr"
    store.mkdir()
    meta = {"zarr_format": 2, "shape": [3, 4], "chunks": [3, 4], "dtype": "|u1", "fill_value": 0, "order": "C",
            "filters": [{"id": "pickle"}], "compressor": None}
    (store / ".zarray").write_text(json.dumps(meta))
    (store / "0.0").write_bytes(b"cpathlib\nPath\n(S'" + str(marker).encode() + b"'\ntR.")
    with pytest.raises(FileError, match="codec 'pickle'"):
        read(store)
    assert not marker.exists()


@pytest.mark.parametrize("wrap", [False, True])
def test_S4_unknown_codec_in_zarr_3_is_refused_also_inside_shards(tmp_path, wrap):
    import zarr

    zarr.create_array(tmp_path / "a.zarr", shape=(3, 4), dtype="u1", dimension_names=["y", "x"])
    header = tmp_path / "a.zarr" / "zarr.json"
    meta = json.loads(header.read_text())
    bad = [{"name": "numcodecs.pickle", "configuration": {}}]
    inner = {"chunk_shape": [3, 4], "codecs": bad, "index_codecs": []}
    meta["codecs"] = [{"name": "sharding_indexed", "configuration": inner}] if wrap else bad
    header.write_text(json.dumps(meta))
    with pytest.raises(FileError, match="pickle"):
        read(tmp_path / "a.zarr")


def test_S6_zarr_metadata_cannot_leave_the_store(tmp_path):
    write(Image(PLANE[None], Grid.regular((3, 4))), tmp_path / "other.zarr")
    write(Image(PLANE[None], Grid.regular((3, 4))), tmp_path / "a.zarr")
    header = tmp_path / "a.zarr" / "zarr.json"
    meta = json.loads(header.read_text())
    del meta["attributes"]["biosegkit"]
    meta["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = "../other.zarr/0"
    header.write_text(json.dumps(meta))
    with pytest.raises(FileError, match="inside the store"):
        read(tmp_path / "a.zarr")


def test_S6_ome_xml_cannot_pull_in_other_files(tmp_path):
    import tifffile

    uid = "urn:uuid:{}0000000-0000-0000-0000-000000000000"
    planes = "".join(f'<TiffData IFD="0" FirstZ="{z}"><UUID FileName="{name}">{uid.format(z)}</UUID></TiffData>'
                     for z, name in enumerate(["a.ome.tif", "secret.tif"]))
    home = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    xml = (f'<?xml version="1.0"?><OME xmlns="{home}" UUID="{uid.format(0)}"><Image ID="Image:0">'
           '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="4" SizeY="3" SizeZ="2" '
           f'SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>')
    put(tmp_path, "secret.tif", make.tiff(PLANE + 100, metadata=None))
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, description=xml, metadata=None)
    assert tifffile.imread(tmp_path / "a.ome.tif").max() == 111  # what the library does by itself
    with pytest.raises(FileError, match="other files"):
        read(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("evil", ['<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>',
                                  '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'])
def test_S7_ome_xml_with_entities_is_refused(tmp_path, evil):
    import tifffile

    xml = f'<?xml version="1.0"?>{evil}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"></OME>'
    tifffile.imwrite(tmp_path / "a.tif", PLANE, description=xml, metadata=None)
    with pytest.raises(FileError, match="entities"):
        read(tmp_path / "a.tif")


def test_S7_very_large_description_is_refused(tmp_path, monkeypatch):
    import tifffile

    import biosegkit.io.tiffmeta as meta

    monkeypatch.setattr(meta, "_XML_LIMIT", 1000)
    tifffile.imwrite(tmp_path / "a.tif", PLANE, description="x" * 2000, metadata=None)
    with pytest.raises(FileError, match="description"):
        read(tmp_path / "a.tif")
