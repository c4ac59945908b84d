# An example. All other settings are optional and in docs/pillar.md, or printed by `chef-backend-ctl
# gen-sample-backend-config`. Another minion id of the master than `master` is named in `chefha_masters`, a list.
chefha:
  cluster: chefha
  members:
    be1: 192.0.2.11
    be2: 192.0.2.12
    be3: 192.0.2.13
  frontends:               # Chef Infra Servers; leave out if there are none
    fe1: 192.0.2.31
    fe2: 192.0.2.32
  vip: 192.0.2.100
  vip_interface: eth0
  profile: balanced        # fast, balanced or patient: 3, 10 or 30 s without a leader before another takes over
  search:                  # OpenSearch 1.3 where there are front ends, for they accept no newer one
    source:
      archive: salt://chefha/backend/files/opensearch-1.3.20.tar.gz
  # firewall: {clients: [198.51.100.0/24]}   # who else reaches PostgreSQL and search; 22 is open to everybody
  durability: quorum       # async: a commit does not wait for a second node, and may be lost
  wheel: chefha-0.1.0-py3-none-any.whl  # below salt/chefha/minion/files; leave out where chefha came with salt-pip
  # frontend:source, or a repository that has chef-server-core: see docs/frontends.md
  # secrets: and tls: come from the master (salt-run chefha.secrets), or stand here as printed by: chef-backend-ctl
  # gen-secrets be1=192.0.2.11 be2=192.0.2.12 be3=192.0.2.13 --vip 192.0.2.100
