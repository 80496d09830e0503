import sys,time,numpy as np,torch
torch.set_num_threads(1)
import weft
from weft.reading import read_split
from weft.evaluation import learner as L
from weft.evaluation.learner import Adaptation,segments,detach,device_of
from weft.evaluation.evaluate import bits_per_byte
from weft.evaluation.scoring import first_part
import copy
run=weft.Run(sys.argv[1]); tok=run.tokenizer; B=tok.boundary_id; model=run.model
S={k:read_split(run.folder,tok,(),k) for k in ("train","validation")}
va=first_part(S["validation"],25000,tok)
def moments(split,n,length):
    m=copy.deepcopy(model).eval(); st=None; sq=[torch.zeros_like(p) for p in m.parameters()]; k=0
    for seg in segments(split,lanes=1,length=length,boundary_id=B,device=device_of(m),in_order=True):
        h,st=m.hidden(seg.inputs_BT,st,seg.reset_BT); loss=m.embedding.loss(h,seg.targets_BT); st=detach(st); loss.backward()
        for p,s in zip(m.parameters(),sq):
            if p.grad is not None: s+=p.grad.square(); p.grad=None
        k+=1
        if k==n: break
    return [s/k for s in sq]
tr=first_part(S["train"],60000,tok)
if len(sys.argv)>4 and sys.argv[4]=="val":
    s_=S["validation"]; from weft.data import TokenizedSplit; o=s_.offsets[s_.offsets>26000]; tr=TokenizedSplit(s_.tokens[o[0]:],o-o[0],0,None,None)
t=time.time(); MS=moments(tr,int(sys.argv[3]) if len(sys.argv)>3 else 1500,32); print("moments",time.time()-t,flush=True)
class U(L._Update):
    mode=None
    @torch.no_grad()
    def __call__(self):
        how=self.adaptation; self.steps+=1
        if self.steps==1: self.total=[m.clone() for m in MS]
        for p,tr,sq,m in zip(self.parameters,self.trained,self.squares,MS):
            if p.grad is None: continue
            if self.mode=="fixed": v=m
            elif self.mode=="start":
                if self.steps==1: sq.copy_(m)
                sq.lerp_(p.grad.square(),1-how.smoothing); v=sq
            else:
                sq.lerp_(p.grad.square(),1-how.smoothing); v=sq/(1-how.smoothing**self.steps)
            r=v.sqrt()
            eps=1e-8
            if True: eps=1e-8+ self.floor*float(r.mean())
            p.addcdiv_(p.grad,r+eps,value=-how.rate)
            p.lerp_(tr,how.decay); p.grad=None
L._Update=U
from weft.evaluation.adaptation import score_adaptively
for mode,floor,rate,decay,sm in eval(sys.argv[2]):
    U.mode=mode; U.floor=floor
    n=score_adaptively(model,va,Adaptation(rate=rate,decay=decay,smoothing=sm),boundary_id=B)
    print(mode,floor,rate,decay,sm,"%.4f"%bits_per_byte(n,va),flush=True)
