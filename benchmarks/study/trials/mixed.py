import sys,torch,time
torch.set_num_threads(1)
import weft
from weft.evaluation import learner as L
from weft.evaluation.learner import Adaptation
from weft.evaluation.evaluate import score_split,bits_per_byte
from weft.evaluation.scoring import first_part
from weft.reading import read_split
from weft.mixing import tree_of
run=weft.Run(sys.argv[1]); tok=run.tokenizer; n=int(sys.argv[2])
te=first_part(read_split(run.folder,tok,(),"test"),n,tok); va=read_split(run.folder,tok,(),"validation")
mem=run.memory
if mem is None or "--fit" in sys.argv:
    from weft.recall.text_memory import make_memory
    from weft.evaluation.scoring import score
    mem=make_memory([("t",read_split(run.folder,tok,(),"train"))],vocab_size=tok.vocab_size,boundary_id=tok.boundary_id)
    mem=mem.fitted(score(run.model,va,boundary_id=tok.boundary_id),va)
class Old(L._Update):
    @torch.no_grad()
    def __call__(self):
        how=self.adaptation; self.steps+=1; known=1-how.smoothing**self.steps
        for p,tr,sq in zip(self.parameters,self.trained,self.squares):
            if p.grad is None: continue
            sq.lerp_(p.grad.square(),1-how.smoothing)
            p.addcdiv_(p.grad,(sq/known).sqrt_().add_(1e-8),value=-how.rate); p.lerp_(tr,how.decay); p.grad=None
New=L._Update
for cls,rate,decay in ((Old,5e-4,.002),(New,5e-4,.004),(New,1e-3,.004)):
    L._Update=cls
    s=score_split(run.model,te,boundary_id=tok.boundary_id,adapt=(Adaptation(rate=rate,decay=decay),),memory=mem,tree=tree_of(tok),warm_up=va)
    print(cls.__name__,rate,decay,"frozen %.4f memory %.4f adaptive %.4f"%tuple(bits_per_byte(x,te) for x in (s.frozen_N,s.memory_N,s.adaptive_N)),flush=True)
