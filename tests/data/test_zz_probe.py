import time
from rows import pair_row, write_rows
from orpo_pipeline.data.preparation import prepare
def test_x(tiny_config, tmp_path):
    for i in range(4):
        t=time.time(); p=prepare(tiny_config(), tmp_path/f"h{i}", lambda *_:None); print(time.time()-t)
    import cProfile,pstats
    pr=cProfile.Profile(); pr.enable(); prepare(tiny_config(), tmp_path/"hh", lambda *_:None); pr.disable()
    pstats.Stats(pr).sort_stats("cumulative").print_stats(45)
    import subprocess; print(subprocess.run(["find",str(tmp_path/"hh")],capture_output=True,text=True).stdout)
    print((p.path/"record.json").read_text()); print((p.path/"report.json").read_text()[:3000])
