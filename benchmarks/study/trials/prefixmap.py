import sys,numpy as np,weft
tok=weft.load_tokenizer(sys.argv[1]); V=tok.vocab_size
tb=[tok.token_bytes(i) for i in range(V)]; by={b:i for i,b in enumerate(tb) if b}
out=np.arange(V)
for i,b in enumerate(tb):
    for k in range(len(b)-1,0,-1):
        if b[:k] in by: out[i]=by[b[:k]]; break
np.save(sys.argv[2],out); print((out!=np.arange(V)).mean())
