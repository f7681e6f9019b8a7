"""The frame of the HTML report: style sheet, script, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib

from tvm_iovt.report.markup import Markup, element, joined

_STYLE = """
:root{color-scheme:light dark;
--page:#f6f7f8;--surface:#fff;--ink:#16191d;--soft:#5b6470;--line:#e1e4e8;--track:#eceff2;
--work:#2468b0;--traffic:#c2742a;--good:#17724a;--good-bg:#e2f3ea;
--bad:#b3261e;--bad-bg:#fbe6e4;--wait:#7d5700;--wait-bg:#fbf0d6;
--c0:#2468b0;--c1:#d9822b;--c2:#1a936f;--c3:#a8479d;--c4:#c8443c;--c5:#7c8794}
@media (prefers-color-scheme:dark){:root{
--page:#111417;--surface:#191d22;--ink:#e6e9ed;--soft:#98a2ae;--line:#2a3038;--track:#252b32;
--work:#6cb0f2;--traffic:#e8a765;--good:#6fd3a2;--good-bg:#143226;
--bad:#ff9a92;--bad-bg:#43201d;--wait:#ecc36c;--wait-bg:#3a2f14;
--c0:#6cb0f2;--c1:#f0a95c;--c2:#54cfa6;--c3:#d993d0;--c4:#f58a82;--c5:#8b96a3}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);line-height:1.5;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums;-webkit-text-size-adjust:100%}
main,header,footer{max-width:1160px;margin:0 auto;padding:0 28px}
header{padding-top:44px}
h1{font-size:30px;line-height:1.2;letter-spacing:-.015em;margin:2px 0 8px;overflow-wrap:anywhere}
h2{font-size:19px;letter-spacing:-.005em;margin:0}
h3{font-size:15px;margin:0}
section{margin-top:44px}
.lead{color:var(--soft);margin:3px 0 16px;max-width:78ch}
.eyebrow{color:var(--work);font-size:12.5px;font-weight:650;letter-spacing:.08em;
text-transform:uppercase;margin:0}
.meta{color:var(--soft);margin:0;display:flex;flex-wrap:wrap;gap:2px 18px;font-size:13.5px}
code,.mono{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:.865em;overflow-wrap:anywhere}
.panel{background:var(--surface);border:1px solid var(--line);border-radius:10px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(148px,1fr));margin:26px 0 0;
overflow:hidden;gap:1px;background:var(--line)}
.tiles div{background:var(--surface);padding:14px 18px 13px}
.tiles dt{color:var(--soft);font-size:13px}
.tiles dd{margin:0;font-size:20px;font-weight:600;letter-spacing:-.01em;white-space:nowrap}
.tiles small{display:block;font-size:12.5px;font-weight:400;color:var(--soft);letter-spacing:0;
white-space:normal}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));gap:16px}
.card{padding:16px 18px 15px;display:flex;flex-direction:column;gap:12px}
.card .top{display:flex;justify-content:space-between;align-items:flex-start;gap:12px}
.card h3{font-size:17px;overflow-wrap:anywhere}
.card p{margin:0}
.soft{color:var(--soft)}
.small{font-size:13px}
.pill{border-radius:99px;padding:2px 11px 3px;font-size:12.5px;font-weight:650;white-space:nowrap}
.pill.good{color:var(--good);background:var(--good-bg)}
.pill.bad{color:var(--bad);background:var(--bad-bg)}
.pill.wait{color:var(--wait);background:var(--wait-bg)}
.latency{font-size:26px;font-weight:600;letter-spacing:-.015em;line-height:1.15}
.latency.none{font-size:15px;font-weight:400;letter-spacing:0;color:var(--soft);line-height:1.5}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:3px 16px;margin:0;font-size:13.5px}
.facts dt{color:var(--soft)}
.facts dd{margin:0;overflow-wrap:anywhere}
.split{display:grid;grid-template-columns:minmax(0,5fr) minmax(0,6fr);gap:16px}
.split>.panel{padding:18px 20px 14px}
.split p{margin:8px 0 0}
.split h3{margin-bottom:12px}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:12.5px;color:var(--soft);
margin:0 0 10px;padding:0;list-style:none}
.legend svg{width:10px;height:10px;margin-right:6px;vertical-align:-.5px}
.bars{display:grid;gap:11px}
.bars .row{display:grid;grid-template-columns:1fr auto;gap:1px 12px;font-size:13.5px}
.bars svg{grid-column:1/-1;width:100%;height:15px;display:block}
.bars .name{font-weight:600;overflow-wrap:anywhere}
.bars .name span{font-weight:400;color:var(--soft)}
.track{fill:var(--track)}.work{fill:var(--work)}.traffic{fill:var(--traffic)}
.plot{width:100%;height:auto;display:block}
.plot text{fill:var(--soft);font-size:12px}
.plot .grid{stroke:var(--line);stroke-width:1}
.plot .iso{stroke:var(--soft);stroke-width:1;stroke-dasharray:1 5;opacity:.55}
.plot .iso-label{font-size:11px;opacity:.85}
.plot circle{fill-opacity:.72;stroke:var(--surface);stroke-width:1}
.plot circle:hover{fill-opacity:1;stroke:var(--ink)}
.c0{fill:var(--c0)}.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}.c4{fill:var(--c4)}
.c5{fill:var(--c5)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{text-align:left;padding:7px 14px;border-bottom:1px solid var(--line);vertical-align:baseline}
tbody tr:last-child td{border-bottom:0}
thead th{font-weight:600;font-size:12.5px;color:var(--soft);white-space:nowrap;background:none}
.num{text-align:right;white-space:nowrap}
th button{all:unset;cursor:pointer;display:inline-block}
th button:hover,th[aria-sort] button{color:var(--ink)}
th button:focus-visible,summary:focus-visible{outline:2px solid var(--work);outline-offset:3px;
border-radius:3px}
th button::after{content:"\\2195";margin-left:5px;opacity:.4;font-size:11px}
th[aria-sort=ascending] button::after{content:"\\2191";opacity:1}
th[aria-sort=descending] button::after{content:"\\2193";opacity:1}
.operators tbody tr:hover{background:var(--track)}
.operators .name{min-width:230px;width:38%}
.operators .wide{white-space:nowrap}
td.share{min-width:165px}
td.share div{white-space:nowrap;padding-bottom:4px;
background:linear-gradient(var(--work),var(--work)) no-repeat left bottom/var(--part) 3px}
.tensors td:nth-child(2){min-width:104px}
#count{white-space:nowrap}
.tools{display:flex;justify-content:space-between;align-items:center;gap:12px;
padding:12px 14px;border-bottom:1px solid var(--line)}
.tools input{font:inherit;font-size:14px;color:inherit;background:var(--page);
border:1px solid var(--line);border-radius:7px;padding:6px 11px;width:min(320px,100%)}
.tools input:focus-visible{outline:2px solid var(--work);outline-offset:0}
.no-script{display:none!important}
.passes{overflow:hidden}
.passes>details+details{border-top:1px solid var(--line)}
.passes>details>summary{padding:12px 18px;display:flex;flex-wrap:wrap;gap:4px 12px;
align-items:center;justify-content:space-between;list-style:none}
.passes>details>summary::-webkit-details-marker{display:none}
.passes>details>summary h3::before{content:"\\203a";display:inline-block;width:16px;
color:var(--soft);transition:transform .12s}
.passes>details[open]>summary h3::before{transform:rotate(90deg) translate(2px,3px)}
summary{cursor:pointer}
.passes ul{list-style:none;margin:0;padding:0 18px 14px 34px;display:grid;gap:11px}
.passes li{display:grid;grid-template-columns:118px minmax(0,1fr);gap:2px 14px}
.passes li p{margin:0}
.passes li>div{font-size:14px}
.passes li .verb{font-weight:600;font-size:13px;padding-top:1px}
.verb.good{color:var(--good)}.verb.wait{color:var(--wait)}
.subjects{color:var(--soft);font-size:13px}
.subjects summary{display:inline}
footer{color:var(--soft);font-size:13px;margin-top:44px;padding-bottom:48px}
footer p{border-top:1px solid var(--line);padding-top:16px;margin:0}
@media (max-width:900px){.split{grid-template-columns:minmax(0,1fr)}}
@media (max-width:600px){
main,header,footer{padding-left:14px;padding-right:14px}
header{padding-top:26px}h1{font-size:24px}section{margin-top:34px}
.tiles{grid-template-columns:1fr 1fr}.tiles dd{font-size:19px}.tiles div{padding:11px 14px}
.cards{grid-template-columns:minmax(0,1fr)}
.split>.panel{padding:15px 14px}
.plot text{font-size:21px}.plot .iso-label{font-size:18px}.plot circle{stroke-width:1.5}
.passes ul{padding-left:18px}.passes li{grid-template-columns:minmax(0,1fr)}
th,td{padding:7px 10px}
.operators .wide{display:none}.operators .name{min-width:150px}td.share{min-width:148px}}
@media print{body{background:#fff}.tools{display:none}.panel{break-inside:avoid}
.operators{break-inside:auto}}
"""

# The table works without it: sorting and filtering are conveniences.
_SCRIPT = """
(function(){
var table=document.getElementById('sortable');if(!table)return;
var body=table.tBodies[0],rows=[].slice.call(body.rows);
var filter=document.getElementById('filter'),count=document.getElementById('count');
filter.parentNode.classList.remove('no-script');
function shown(){var q=filter.value.toLowerCase(),n=0;
rows.forEach(function(r){var hit=r.textContent.toLowerCase().indexOf(q)>=0;
r.hidden=!hit;if(hit)n++});
count.textContent=n+' of '+rows.length}
filter.addEventListener('input',shown);shown();
[].forEach.call(table.tHead.rows[0].cells,function(th,i){
var button=document.createElement('button');button.type='button';
button.textContent=th.textContent;th.textContent='';th.appendChild(button);
button.addEventListener('click',function(){
var numeric=th.classList.contains('num')||th.hasAttribute('data-numeric');
var was=th.getAttribute('aria-sort');
var up=was?was==='descending':!numeric||i===0;
[].forEach.call(th.parentNode.cells,function(c){c.removeAttribute('aria-sort')});
th.setAttribute('aria-sort',up?'ascending':'descending');
rows.sort(function(a,b){
var x=a.cells[i].getAttribute('data-value'),y=b.cells[i].getAttribute('data-value');
var d=numeric?x-y:x<y?-1:x>y?1:0;return up?d:-d});
rows.forEach(function(r){body.appendChild(r)})})})
})();
"""


def page(title: str, body: Markup, *, style: str = "") -> str:
    """A complete document around `body`: no request leaves it, no other script runs in it.

    Args:
        title: Of the document.
        body: Its content. A table with the id `sortable` can be sorted by its columns, and
            filtered by an input with the id `filter` beside an element with the id `count`.
        style: Rules for this page alone.
    """
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(_STYLE + style)),
    )
    document = element(
        "html", head, element("body", joined(body, element("script", Markup(_SCRIPT)))), lang="en"
    )
    return f"<!DOCTYPE html>\n{document}\n"
