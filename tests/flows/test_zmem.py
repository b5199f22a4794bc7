import psutil, numpy as np, pandas as pd, time
from extracting import *
from somatic.extraction import Extraction
from somatic.cell import empty_row
from somatic.chunks import chunk_row
def test_mem(scene, tmp_path, monkeypatch):
    n=6000
    rng=np.random.default_rng(0)
    src=scene.nuclei(1); src=src[src.pt_root_id.fillna(0)>1]
    rows=src.iloc[rng.integers(0,len(src),n)].reset_index(drop=True); rows['id']=np.arange(1,n+1); 
    p=tmp_path/'n.parquet'; rows.to_parquet(p)
    from sandbox.lab import write_file_dataset
    d=without_nuclei(write_file_dataset(scene,1,tmp_path/'phantom.toml'))
    changed(d,(str(scene.nuclei_path(1).resolve()),str(p)))
    me=psutil.Process(); marks=[]
    def fake(self, rows, res, **k):
        marks.append((time.time(),me.memory_info().rss/1e6))
        for c in self.cells(rows,res):
            r=empty_row(c,1,'published')
            yield chunk_row(r,centre_vx=c.centre_vx,attempt=1)
    monkeypatch.setattr(Extraction,'extract',fake)
    s=run(d,tmp_path/'r',chunk=3,workers=2)
    print(s.type, len(marks))
    for i in range(0,len(marks),200): print(i, round(marks[i][0]-marks[0][0],1), round(marks[i][1]))
    print(round(marks[-1][0]-marks[0][0],1), marks[-1][1], me.memory_info().rss/1e6)
