import random,sys,string
def zipf(r,n): return [1/(i+1) for i in range(n)]
L=string.ascii_letters+string.digits+"-_'"
def word(r): return "".join(r.choice(L) for _ in range(r.randint(1,7)))
def dyck(r,n):
    op=r.sample(L,12); out=[]; st=[]
    while len(out)<n:
        if st and (r.random()<0.48 or len(st)>12): out.append(st.pop().upper() if False else st.pop())
        else:
            k=r.randrange(0,12,2); out.append(op[k]); st.append(op[k+1])
        if r.random()<.1: out.append(" ")
    return "".join(out)
def lexicon(r,n):
    k=r.randint(15,60); ws=[word(r) for _ in range(k)]; z=zipf(r,k)
    nxt=[r.choices(range(k),z,k=r.randint(1,4)) for _ in range(k)]
    out=[]; s=0; size=0
    while size<n:
        s=r.choice(nxt[s]) if r.random()<.7 else r.choices(range(k),z)[0]
        out.append(ws[s]); size+=len(ws[s])+1
        if r.random()<.08: out[-1]+=r.choice(".,;:")
        if r.random()<.03: out.append("\n")
    return " ".join(out)
def copies(r,n):
    out=""
    while len(out)<n:
        ws=" ".join(word(r) for _ in range(r.randint(2,10)))
        k=r.random()
        other=ws if k<.5 else ws[::-1] if k<.65 else ws.swapcase() if k<.8 else " ".join(reversed(ws.split()))
        out+=ws+r.choice("|=>")+other+"\n"
    return out
def automaton(r,n):
    k=r.randint(4,10); sy=r.sample(L+" ",r.randint(4,14))
    t=[[(r.choice(sy),r.randrange(k)) for _ in range(r.randint(1,3))] for _ in range(k)]
    s=0; out=[]
    for _ in range(n):
        c,s=r.choice(t[s]); out.append(c)
    return "".join(out)
def stack(r,n):
    # morphology: stems and endings that agree, document's own
    stems=[word(r) for _ in range(20)]; cl=[[word(r)[:3] for _ in range(4)] for _ in range(4)]
    of=[r.randrange(4) for _ in stems]; out=[]; size=0
    z=zipf(r,20)
    while size<n:
        case=r.randrange(4)
        for _ in range(r.randint(2,4)):
            i=r.choices(range(20),z)[0]; w=stems[i]+cl[of[i]][case]; out.append(w); size+=len(w)+1
        out[-1]+="."
    return " ".join(out)
r=random.Random(0); n=int(float(sys.argv[2])); made=0
with open(sys.argv[1],"w") as f:
    while made<n:
        d=r.choice([dyck,lexicon,lexicon,copies,automaton,stack,stack])(r,r.randint(400,2000)); f.write(d+"\n\n\n"); made+=len(d)+3
