import sys,time,numpy as np,torch,math
torch.set_num_threads(1)
import weft
from weft.reading import read_split
from weft.evaluation import below
from weft.evaluation.below import *
from weft.evaluation.below import _pieces,_frozen,_cumulated,_beginning
from weft.mixing import tree_of
from weft.evaluation.evaluate import bits_per_byte
from weft.evaluation.scoring import score
run=weft.Run(sys.argv[1]); tok=run.tokenizer; tree=tree_of(tok); model=run.model
most=int(sys.argv[2]) if len(sys.argv)>2 else 10**9
S={k:read_split(run.folder,tok,(),k) for k in ("train","validation","test")}
from weft.recall.text_memory import make_memory
t=time.time()
mem=make_memory([("t",S["train"])],vocab_size=tok.vocab_size,boundary_id=tok.boundary_id)
va=S["validation"]; mem=mem.fitted(score(model,va,boundary_id=tok.boundary_id),va)
te=S["test"]
if most<len(te.tokens):
    from weft.evaluation.scoring import first_part
    te=first_part(te,most,tok)
print("memory",time.time()-t,flush=True)
def dists(split,limit=None):
    streams=[_pieces(_frozen(model,split,tree.boundary_id)),]
    return streams
def scoreit(mixer,split,mem):
    tk=np.asarray(split.tokens); nats=np.zeros(len(tk),np.float32); reader=Reader(mem,split)
    mixer.score(tk[:1],np.zeros((1,2,len(tree.ids_U)+1)))
    start=1
    for lg in _pieces(_frozen(model,split,tree.boundary_id)):
        stop=min(start+len(lg),len(tk))
        l=lg[:stop-start]
        c=_cumulated([l,l],tree,reader,start)   # P,3,U: frozen, frozen, with memory
        c=np.ascontiguousarray(c[:,1:])
        nats[start:stop]=mixer.score(tk[start:stop],c); start=stop
    return nats
f=score(model,te,boundary_id=tok.boundary_id)
print("frozen %.4f  memory %.4f"%(bits_per_byte(f,te),bits_per_byte(mem.mix(f,te),te)),flush=True)
known=tree.text(mem.index.tokens_N,SEPARATOR)[-MOST_PRIMED:]
longest=max(tree.size(x.tokens,SEPARATOR) for x in (te,va))
for warm_learn in (False,):
    t=time.time()
    m=ByteMixer(tree,np.array([.3,.7]),len(known)+longest); m.prime(known); tp=time.time()-t
    b=m.remember(); m.learn=warm_learn
    w=_beginning(va); t=time.time(); wn=scoreit(m,w,mem); tw=time.time()-t
    m.go_back(b); m.learn=False; m.weigh=False
    n=scoreit(m,te,mem)
    print("warm counters learn",warm_learn,"fixed mixer %.4f"%bits_per_byte(n,te),"prime %.0f warm %.0f all %.0f"%(tp,tw,time.time()-t),flush=True)
