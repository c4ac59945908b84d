# frozen_string_literal: true

require 'net/http'
require 'socket'

# use_chef_backend: an HAProxy on this machine, which asks every member who leads.
class Haproxy
  DEFAULTS = {
    'listen' => '0.0.0.0', 'local_postgresql_port' => 5432, 'remote_postgresql_port' => 5432,
    'local_elasticsearch_port' => 9200, 'remote_elasticsearch_port' => 9200, 'leaderl_healthcheck_port' => 7331,
    'etcd_port' => 2379
  }.freeze
  UNIT = 'opscode-haproxy.service'
  TRIES = 10

  def initialize(settings)
    @settings = settings
    @about = DEFAULTS.merge(settings.haproxy.values)
  end

  def configure
    path = "#{Places.haproxy}/etc/haproxy.cfg"
    before = File.exist?(path) ? File.read(path) : nil
    text = configuration(members)
    Places.write(path, text)
    return if ENV['CHEF_STANDIN_ROOT'] # a test: nothing is started

    system('systemctl', 'enable', '--now', UNIT, exception: true)
    system('systemctl', 'reload', UNIT, exception: true) unless before.nil? || before == text
    await_one_leader
  end

  def configuration(members)
    <<~CONFIGURATION
      global
              stats socket #{Places.haproxy}/haproxy.sock mode 600

      defaults
              timeout connect 5s
              timeout tunnel 300s
              timeout client-fin 1s
              timeout server-fin 1s
              timeout client 50s
              timeout server 50s

      frontend postgresql
              bind #{@about['listen']}:#{@about['local_postgresql_port']}
              mode tcp
              default_backend chef_backend_postgresql

      frontend elasticsearch
              bind #{@about['listen']}:#{@about['local_elasticsearch_port']}
              mode tcp
              default_backend chef_backend_elasticsearch

      #{backend('postgresql', ' on-marked-down shutdown-sessions', members)}
      #{backend('elasticsearch', '', members)}
    CONFIGURATION
  end

  private

  def backend(name, more, members)
    check = @about['leaderl_healthcheck_port']
    servers = members.map do |server, address|
      "        server #{server} #{address}:#{@about["remote_#{name}_port"]} check port #{check}"
    end
    <<~BACKEND + "#{servers.join("\n")}\n"
      backend chef_backend_#{name}
              mode tcp
              # Chef's own, older HAProxy takes the same request as one line of "option httpchk"
              option httpchk
              http-check send meth GET uri /leader ver HTTP/1.1 hdr Host localhost:#{check}
              default-server inter 2s rise 1 fall 1#{more}
    BACKEND
  end

  # From etcd's old API, or else as configured.
  def members
    configured = @settings.chef_backend_members
    configured.each do |address|
      found = ask(address)
      return found unless found.empty?
    end
    configured.each_with_index.to_h { |address, number| ["backend#{number}", address] }
  end

  def ask(address)
    http = Net::HTTP.new(address, @about['etcd_port'], nil)
    http.open_timeout = http.read_timeout = 3
    answer = JSON.parse(http.get('/v2/members').body)
    answer.fetch('members').to_h { |one| [one.fetch('name'), one.fetch('peerURLs').first[%r{//([^:/]+)}, 1]] }
  rescue StandardError
    {}
  end

  # At its start HAProxy takes all for well: nobody may write to a follower, so that is waited out.
  def await_one_leader
    TRIES.times do
      up = Hash.new(0)
      stats.each { |proxy, server, status| up[proxy] += 1 if server != 'BACKEND' && status == 'UP' }
      return if up['chef_backend_postgresql'] == 1 && up['chef_backend_elasticsearch'] == 1

      sleep 2
    end
    raise Failure, 'HAProxy does not show exactly one active backend'
  end

  def stats
    socket = UNIXSocket.new("#{Places.haproxy}/haproxy.sock")
    socket.puts('show stat -1 4 -1')
    header, *rows = socket.read.lines.map { |line| line.chomp.delete_prefix('# ').split(',') }
    rows.reject(&:empty?).map { |row| %w[pxname svname status].map { |name| row[header.index(name)] } }
  rescue SystemCallError
    []
  end
end
